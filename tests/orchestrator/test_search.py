"""Searches: their trials, equal trials for equal seeds, and searches that resume."""

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from pruneyard.orchestrator.coordination.journal import Journal
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.json_schema import spec_schema
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.orchestrator.spec.search import Choices, Range, Search
from pruneyard.orchestrator.spec.yaml_document import parse_value
from pruneyard.reports.layout import RunFolder
from pruneyard.testing.cases import each_case

SPACE: dict[str, Any] = {
    "method": {"choices": ["dense", {"name": "rigl"}]},
    "method.density": {"low": 0.01, "high": 0.5, "log": True},
    "model.width": {"low": 4, "high": 12, "int": True},
    "optimizer.lr": 0.05,
}
BASE: dict[str, Any] = {
    "name": "searched",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "budget": {"steps": 4, "batch_size": 16},
    "seeds": 2,
}
AIMS = {"val/accuracy": "max", "num_active": "min"}


def planned(name: str, **more: Any) -> dict[str, Any]:
    return {**BASE, "search": {"name": name, "max_trials": 12, "space": SPACE, **more}}


def learning(name: str, **more: Any) -> dict[str, Any]:
    return planned(name, **{"max_trials": 5, "batch": 2, "objectives": AIMS, **more})


def keys(spec: Spec) -> list[str]:
    return [job.key for job in spec.jobs]


def test_a_range_reaches_its_ends_and_stays_inside() -> None:
    shares = np.linspace(0, 1, 1001)[:-1]
    ints = [Range(low=2, high=5, int=True).quantile(share) for share in shares]
    assert [ints.count(value) for value in (2, 3, 4, 5)] == [250, 250, 250, 250]
    logs = np.array([Range(low=1e-4, high=1.0, log=True).quantile(share) for share in shares])
    assert logs[0] == 1e-4
    assert np.allclose(np.log10(logs), -4 + 4 * shares, atol=1e-5)
    assert [Choices(choices=("a", "b")).quantile(share) for share in (0, 0.49, 0.5, 0.99)] == ["a", "a", "b", "b"]


@pytest.mark.parametrize("name", ["random", "sobol"])
def test_a_seed_settles_the_trials_of_a_planned_search(name: str) -> None:
    spec, other = load_spec(planned(name)), load_spec(planned(name, seed=1))
    first = keys(spec)
    assert first == keys(load_spec(planned(name)))
    drawn = {job.key for job in spec.jobs if job.described["method"] != "dense"}
    assert len(drawn) >= 4
    assert drawn.isdisjoint(keys(other)), "a density of six digits is drawn twice"
    more = keys(load_spec(planned(name, max_trials=16)))
    assert more[: len(first)] == first, "more trials go on where fewer ended"


@pytest.mark.parametrize("name", ["random", "sobol"])
def test_keys_that_a_table_does_not_have_are_without_effect(name: str) -> None:
    space = {"method": SPACE["method"], "method.density": SPACE["method.density"]}
    jobs = load_spec(planned(name, space=space, max_trials=20)).jobs
    dense = [job for job in jobs if job.described["method"] == "dense"]
    assert len(dense) == 2, "trained once with each seed, whatever the density drawn for it"
    assert len(jobs) > 10
    assert all(0.01 <= job.described["density"] <= 0.5 for job in jobs if job not in dense)


def test_the_draws_of_a_key_do_not_depend_on_other_keys_nor_on_their_order() -> None:
    ranges = {key: Range(low=0, high=1) for key in "ab"}
    both = Search(name="random", max_trials=5, space=ranges).planned()
    alone = Search(name="random", max_trials=5, space={"b": ranges["b"]}).planned()
    assert [proposal["b"] for proposal in both] == [proposal["b"] for proposal in alone]
    assert both == Search(name="random", max_trials=5, space=dict(reversed(ranges.items()))).planned()


def test_sobol_fills_a_square_more_evenly_than_chance() -> None:
    """Each of 32 equal strips along either axis has two of 64 points, for any shift; random points leave e^-2 of them empty."""
    space = {key: Range(low=0, high=1) for key in "ab"}

    def empty_strips(name: Any) -> int:
        points = Search(name=name, max_trials=64, space=space).planned()
        return sum(32 - len({math.floor(point[key] * 32) for point in points}) for key in "ab")

    assert empty_strips("sobol") == 0
    assert empty_strips("random") > 3


def test_a_search_joins_a_grid_and_the_seeds() -> None:
    spec = planned("random", space={"optimizer.lr": {"low": 0.1, "high": 1.0}}, max_trials=3)
    spec |= {"grid": {"method": ["dense", {"name": "set", "density": 0.5}]}}
    assert len(load_spec(spec).jobs) == 3 * 2 * 2


@pytest.mark.parametrize("name", ["random", "sobol"])
def test_the_spec_as_run_lists_what_was_drawn(name: str) -> None:
    spec = load_spec(planned(name))
    text = spec.to_yaml()
    assert keys(load_spec(parse_value(text))) == keys(spec)
    assert "search" not in parse_value(text)


@each_case(
    ("change", "message"),
    [
        ({"space": {"method.densty": {"low": 0.1, "high": 0.2}}}, "did you mean method.density"),
        (
            {"space": {"method.density": {"low": 0.5, "high": 1.5}}},
            r"search.space.method.density: is 1\.\d+; it must lie in",
        ),
        ({"space": {"method.density": {"low": 0.5}}}, "high: is missing"),
        ({"space": {"optimizer.lr": {"low": 0.0, "high": 1.0, "log": True}}}, "above 0 where log"),
        ({"space": {"model.width": [4, 8]}}, r"must be \{choices"),
        ({"space": {"seed": {"low": 0, "high": 9, "int": True}}}, "cannot be searched"),
        ({"name": "rando"}, "search.name: is"),
        ({"metric": "val/accuracy"}, "learns nothing from results"),
        ({"name": "tpe", "metric": "test/accuracy"}, "settings chosen on the test split cannot be tested on it"),
        ({"name": "tpe"}, "metric is missing|metric: is missing"),
    ],
)
def test_what_is_wrong_with_a_search_is_said(change: dict[str, Any], message: str) -> None:
    spec = {**planned("random"), "method": {"name": "set", "density": 0.5}}
    spec["search"] |= change
    with pytest.raises(SpecError, match=message):
        load_spec(spec)


def test_a_key_set_on_the_command_line_is_no_longer_searched() -> None:
    spec = load_spec(planned("random"), overrides={"model.width": 7})
    assert {job.resolved["model"]["width"] for job in spec.jobs} == {7}
    assert keys(load_spec(parse_value(spec.to_yaml()))) == keys(spec)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        pytest.param("optimizer.lr", {"low": 0.2, "high": 0.4}, (0.2, 0.4), id="a constant becomes a range"),
        pytest.param("method.density", {"choices": [0.3]}, (0.3, 0.3), id="a range becomes a constant"),
        pytest.param("method.density.low", 0.4, (0.4, 0.5), id="an end of a range"),
        pytest.param("optimizer.weight_decay", {"low": 0.2, "high": 0.4}, (0.2, 0.4), id="one more key"),
    ],
)
def test_an_override_reaches_a_dotted_key_of_the_space(key: str, value: Any, expected: tuple[float, float]) -> None:
    spec = load_spec(planned("random"), overrides={f"search.space.{key}": value})
    table, name, *_ = key.split(".")
    chosen = [job.resolved[table][name] for job in spec.jobs if name in job.resolved[table]]
    assert chosen
    assert all(expected[0] <= value <= expected[1] for value in chosen)


def test_the_schema_knows_the_table() -> None:
    validator = jsonschema.Draft202012Validator(spec_schema())
    assert validator.is_valid(planned("random"))
    assert validator.is_valid(learning("tpe"))
    assert not validator.is_valid(planned("rando"))


class StopsAfter:
    """A display that requests a stop of the study when a number of jobs are done."""

    def __init__(self, number: int) -> None:
        self._number = number

    def show(self, monitor: Monitor) -> None:
        """Raises an exception that no job catches, as a kill would."""
        if len(monitor.ended) >= self._number:
            raise KeyboardInterrupt


@pytest.fixture(scope="module", params=["tpe", "nsga2"])
def finished_search(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Runs a search without interruption."""
    pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp(request.param) / "out"
    assert run(learning(request.param), folder, local=True).exit_code == 0
    return request.param, folder


def proposals(folder: Path) -> list[Any]:
    (journal,) = (folder / "searches").iterdir()
    return [entry["proposals"] for entry in Journal(journal).lines() if "proposals" in entry]


def test_a_search_runs_all_its_trials_with_every_seed(finished_search: tuple[str, Path]) -> None:
    name, folder = finished_search
    assert [len(batch) for batch in proposals(folder)] == [2, 2, 1]
    plan = make_plan(load_spec(learning(name)), RunFolder(folder))
    assert plan.counts()["completed"] == len(plan.spec.jobs) == len(Results(folder).runs())
    assert set(Results(folder).runs().groupby("seed").size()) == {len(plan.spec.jobs) // 2}


def test_a_search_that_was_stopped_proposes_what_it_would_have(
    finished_search: tuple[str, Path], tmp_path: Path
) -> None:
    name, folder = finished_search
    for number in (1, 3):  # in the middle of the first round, then of another
        with pytest.raises(KeyboardInterrupt):
            run(learning(name), tmp_path / "out", local=True, display=StopsAfter(number))
        assert Results(tmp_path / "out", spec=load_spec(learning(name))).exit_code == 3
    assert run(learning(name), tmp_path / "out", local=True).exit_code == 0
    assert proposals(tmp_path / "out") == proposals(folder)
    assert sorted(Results(tmp_path / "out").runs()["run_key"]) == sorted(Results(folder).runs()["run_key"])


def test_a_finished_search_proposes_nothing_and_a_longer_one_continues(finished_search: tuple[str, Path]) -> None:
    name, folder = finished_search
    before = proposals(folder)
    run(folder / "spec.yaml", folder, local=True)
    assert proposals(folder) == before
    assert set(Results(folder).runs()["attempt"]) == {1}
    run(learning(name, max_trials=6), folder, local=True)
    assert proposals(folder)[:3] == before
    assert [len(batch) for batch in proposals(folder)] == [2, 2, 1, 1]


def test_the_front_holds_what_no_other_cell_beats(finished_search: tuple[str, Path]) -> None:
    _, folder = finished_search
    everything, front = Results(folder).summary(), Results(folder).pareto(["test/accuracy", "num_active"])
    points = everything[["test/accuracy", "num_active"]].to_numpy()
    beaten = [any(a >= p[0] and n <= p[1] and (a, n) != tuple(p) for a, n in points) for p in points]
    expected = points[~np.array(beaten)]
    assert sorted(map(tuple, front[["test/accuracy", "num_active"]].to_numpy())) == sorted(
        map(tuple, expected)
    )
    assert len(front)
    assert set(Results(folder).pareto({"num_active": "min"})["num_active"]) == {
        everything["num_active"].min()
    }
    with pytest.raises(UsageError, match=r"^wall: no run has it; it must be .*train_s$"):
        Results(folder).pareto({"wall": "min"})
    for misspelt in (["test/acuracy"], {"test/acuracy": "max"}):
        with pytest.raises(UsageError, match=r"^test/acuracy: no run has it.*; did you mean test/accuracy\?$"):
            Results(folder).pareto(misspelt)


def test_a_metric_that_no_run_reports_is_named(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    spec = {**planned("tpe", max_trials=2, batch=1, metric="val/acuracy", mode="max"), "seeds": 1}
    with pytest.raises(UsageError, match=r"val/acuracy.*reports.*val/accuracy"):
        run(spec, tmp_path / "out", local=True)


def test_no_search_begins_when_its_time_is_up(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    spec = {**planned("tpe", batch=1, metric="val/accuracy", max_time=1e-6), "seeds": 1}
    assert run(spec, tmp_path / "out", local=True).exit_code == 0
    assert [len(batch) for batch in proposals(tmp_path / "out")] == [1]


def test_a_truncated_last_line_of_a_journal_is_ignored(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "j.jsonl")
    journal.append({"a": 1})
    with journal.path.open("ab") as file:
        file.write(b'{"b": ')
    assert journal.lines() == [{"a": 1}]
    journal.append({"c": 2})
    assert [json.loads(line) for line in journal.path.read_text().splitlines()] == [{"a": 1}, {"c": 2}]
