"""Population-based training of real networks: lineages, exploits, members that change nothing, and kills."""

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
from killed_driver import KillingDisplay

from pruneyard.orchestrator.coordination.journal import Journal
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.search.pbt import PBTSearch
from pruneyard.orchestrator.spec.json_schema import spec_schema
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.yaml_document import parse_value
from pruneyard.reports.layout import RunFolder
from pruneyard.testing.cases import each_case

SPACE: dict[str, Any] = {
    "optimizer.lr": {"low": 1.0e-4, "high": 1.0, "log": True},
    "optimizer.momentum": {"low": 0.0, "high": 0.95},
    "optimizer.nesterov": False,
}
SEARCH = {
    "name": "pbt",
    "max_trials": 5,
    "generations": 3,
    "metric": "val/nll",
    "mode": "min",
    "space": SPACE,
    "quantile": 0.4,
}
BASE: dict[str, Any] = {
    "name": "bred",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 200, "max_test": 50},
    "model": {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.1},
    "method": {"name": "set", "density": 0.5, "schedule": {"every": 4}},
    "budget": {"steps": 40, "batch_size": 16},
    "seeds": 2,
    "search": SEARCH,
}


@pytest.fixture(scope="module")
def pbt_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bred") / "out"
    assert run(BASE, folder, local=True).exit_code == 0
    return folder


def members(folder: Path) -> list[list[dict[str, Any]]]:
    (journal,) = (folder / "searches").iterdir()
    return [entry["members"] for entry in Journal(journal).lines()]


def jobs(folder: Path) -> list[list[list[Any]]]:
    """Returns the jobs by generation, member and seed."""
    (stage,) = load_spec(BASE).stages
    assert stage.learning is not None
    return PBTSearch(stage.learning, RunFolder(folder)).by_member()


def values(folder: Path) -> dict[str, pd.DataFrame]:
    """Returns the metrics of each run, by step."""
    frame = Results(folder).metrics()
    frame["measure"] = frame["split"].astype(str) + "/" + frame["name"].astype(str)
    return dict(iter(frame.sort_values("step").groupby("run_key", observed=True)))


def test_every_run_ends_with_its_generation_and_begins_where_its_parent_ended(pbt_study: Path) -> None:
    metrics = values(pbt_study)
    ends = [round(40 * share) for share in (1 / 3, 2 / 3, 1)]
    for generation, generation_members in enumerate(jobs(pbt_study)):
        assert len(generation_members) == 5
        for jobs_of_member in generation_members:
            assert [job.workload.seed for job in jobs_of_member] == [0, 1]
            for job in jobs_of_member:
                steps = metrics[job.key]["step"]
                assert steps.max() == ends[generation]
                assert steps.min() > (ends[generation - 1] if generation else 0)


def test_the_table_of_runs_has_lineages_and_exploits_name_the_run_of_another_member(pbt_study: Path) -> None:
    runs = Results(pbt_study).runs().set_index("run_key")
    planned, exploits = jobs(pbt_study), 0
    for generation, generation_members in enumerate(members(pbt_study)):
        for number, member in enumerate(generation_members):
            for seed, job in enumerate(planned[generation][number]):
                if not generation:
                    assert runs.loc[job.key, "parent_key"] is None or pd.isna(runs.loc[job.key, "parent_key"])
                    continue
                parent = planned[generation - 1][member["parent"]][seed]
                assert runs.loc[job.key, "parent_key"] == parent.key
                assert runs.loc[parent.key, "seed"] == runs.loc[job.key, "seed"] == seed
            if generation and member["parent"] != number:
                exploits += 1
                assert member["at"] != members(pbt_study)[generation - 1][member["parent"]]["at"]
    assert exploits == 2 * 2


def test_the_worst_by_the_mean_over_seeds_on_val_make_room_for_the_best(pbt_study: Path) -> None:
    metrics = values(pbt_study)
    for generation, generation_members in enumerate(members(pbt_study)[1:]):
        costs = []
        for jobs_of_member in jobs(pbt_study)[generation]:
            frames = [metrics[job.key] for job in jobs_of_member]
            final_values = [frame[frame["measure"] == "val/nll"]["value"].iloc[-1] for frame in frames]
            costs.append(math.fsum(final_values) / len(final_values))
        ranked = sorted(range(5), key=lambda number: costs[number])
        for number, member in enumerate(generation_members):
            assert member["parent"] == number if number in ranked[:3] else member["parent"] in ranked[:2]


def test_an_exploited_member_has_its_parents_network_and_its_own_rate(pbt_study: Path) -> None:
    """Right after an exploit the loss is that of the good parent: far below that of the run whose place it took."""
    metrics = values(pbt_study)
    found = [
        (generation, number, member)
        for generation, generation_members in enumerate(members(pbt_study))
        for number, member in enumerate(generation_members)
        if generation and member["parent"] != number
    ]
    for generation, number, member in found:
        for seed in (0, 1):
            child = jobs(pbt_study)[generation][number][seed]
            parent = jobs(pbt_study)[generation - 1][member["parent"]][seed]
            replaced = jobs(pbt_study)[generation - 1][number][seed]
            first, before, replaced_value = (
                metrics[key][metrics[key]["measure"] == "val/nll"]["value"].iloc[index]
                for key, index in ((child.key, 0), (parent.key, -1), (replaced.key, -1))
            )
            assert abs(first - before) < abs(first - replaced_value)
            resolved = json.loads(Results(pbt_study).runs().set_index("run_key").loc[child.key, "spec_json"])
            assert resolved["optimizer"]["lr"] == member["at"]["optimizer.lr"]
            assert resolved["segment"]["runs"] == [parent.key]


def test_a_member_that_only_resumes_from_itself_ends_as_one_uninterrupted_training(
    pbt_study: Path, tmp_path: Path
) -> None:
    never_exploited = [
        number
        for number in range(5)
        if all(generation_members[number]["parent"] in (None, number) for generation_members in members(pbt_study))
    ]
    assert never_exploited
    settings = members(pbt_study)[0][never_exploited[0]]["at"]
    plain = {name: table for name, table in BASE.items() if name != "search"}
    plain["optimizer"] = {"lr": settings["optimizer.lr"], "momentum": settings["optimizer.momentum"]}
    uninterrupted = tmp_path / "whole"
    assert run(plain, uninterrupted, local=True).exit_code == 0
    metrics, expected = values(pbt_study), values(uninterrupted)
    runs = Results(uninterrupted).runs().set_index("seed")
    for seed in (0, 1):
        metrics_of_seed = expected[runs.loc[seed, "run_key"]]
        expected_values = {(row.step, row.measure): row.value for row in metrics_of_seed.itertuples()}
        parts = [metrics[generation_members[never_exploited[0]][seed].key] for generation_members in jobs(pbt_study)]
        found_values = {(row.step, row.measure): row.value for part in parts for row in part.itertuples()}
        assert expected_values.keys() <= found_values.keys()
        assert {key: found_values[key] for key in expected_values} == expected_values
        last = jobs(pbt_study)[-1][never_exploited[0]][seed].key
        for name in ("model.safetensors", "masks.safetensors"):
            ours = RunFolder(pbt_study).artifact(last) / name
            theirs = RunFolder(uninterrupted).artifact(runs.loc[seed, "run_key"]) / name
            assert ours.read_bytes() == theirs.read_bytes()
        flops = Results(pbt_study).runs().set_index("run_key").loc[last, "train_flops"]
        assert flops == runs.loc[seed, "train_flops"]


def test_a_study_that_is_killed_again_and_again_breeds_as_one_that_is_not(pbt_study: Path, tmp_path: Path) -> None:
    for number in (2, 13, 25, 31):
        with pytest.raises(KeyboardInterrupt):
            run(BASE, tmp_path / "out", local=True, display=KillingDisplay(number))
        assert Results(tmp_path / "out", spec=load_spec(BASE)).exit_code == 3
    assert run(BASE, tmp_path / "out", local=True).exit_code == 0
    assert members(tmp_path / "out") == members(pbt_study)
    ours, theirs = values(tmp_path / "out"), values(pbt_study)
    assert ours.keys() == theirs.keys()
    for key, frame in theirs.items():
        newest = ours[key].sort_values("attempt").drop_duplicates(["step", "measure"], keep="last")
        compared = [f.set_index(["step", "measure"])["value"].sort_index() for f in (newest, frame)]
        assert compared[0].equals(compared[1])


def test_a_second_call_repeats_nothing_and_the_spec_as_run_is_the_same_search(pbt_study: Path) -> None:
    before = Results(pbt_study).runs()
    assert run(BASE, pbt_study, local=True).runs().equals(before)
    assert run(pbt_study / "spec.yaml", pbt_study, local=True).runs().equals(before)
    written = parse_value((pbt_study / "spec.yaml").read_text())
    assert written["search"]["generations"] == 3
    plan = make_plan(load_spec(BASE), RunFolder(pbt_study))
    assert plan.counts()["completed"] == len(plan.spec.jobs) == 3 * 5 * 2
    assert len({job.label for job in plan.spec.jobs}) == len(plan.spec.jobs)


def test_cells_are_those_of_the_members_with_all_their_seeds(pbt_study: Path) -> None:
    summary = Results(pbt_study).summary()
    assert len(summary) == 3 * 5
    assert set(summary["num_seeds"]) == {2}


@each_case(
    ("change", "message"),
    [
        (
            {"search": {"space": {"model.width": {"low": 4, "high": 8, "int": True}}}},
            r"model\.width: cannot change while",
        ),
        (
            {"search": {"space": {"optimizer": {"choices": ["sgd", "adamw"]}}}},
            "cannot change while a network is trained",
        ),
        ({"search": {"generations": 1}}, "generations is 1|generations: is 1; it must be 2 or more"),
        ({"search": {"quantile": 0.7}}, r"must lie in \(0, 0.5\]"),
        ({"search": {"resample": -0.1}}, r"must lie in \[0, 1\]"),
        ({"search": {"batch": 3}}, "pbt has no use for it"),
        ({"search": {"name": "pb2", "resample": 0.5}}, "pb2 has no use for it"),
        ({"search": {"name": "tpe", "quantile": None}}, "tpe has no use for it"),
        ({"search": {"name": "random", "metric": None, "mode": None}}, "random learns nothing from results"),
        ({"search": {"max_trials": 1}}, "2 or more members"),
        ({"search": {"metric": "test/nll"}}, "cannot be tested on it"),
        ({"search": {"name": "ptb"}}, "search.name: is"),
        ({"scheduler": {"name": "asha", "metric": "val/nll"}}, "pbt decides itself"),
        ({"segment": {"until": 0.5}}, "segment: is what search pbt sets"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], message: str) -> None:
    changed = {**change.get("search", {})}
    table = {key: value for key, value in {**SEARCH, **changed}.items() if value is not None}
    with pytest.raises(SpecError, match=message):
        load_spec({**BASE, **change, "search": table})


def test_a_kind_whose_jobs_cannot_resume_from_one_another_is_refused() -> None:
    spec = {
        "name": "no",
        "kind": "distill",
        "data": "digits",
        "model": "convnet",
        "method": {"name": "dm", "ipc": 1},
        "search": {**SEARCH, "space": {"method.lr": {"low": 0.1, "high": 1.0}}},
    }
    with pytest.raises(
        SpecError,
        match="jobs of kind distill cannot resume from one another, so choose another search, or kind function, sparse",
    ):
        load_spec(spec)


def test_the_schema_knows_the_names() -> None:
    validator = jsonschema.Draft202012Validator(spec_schema())
    assert validator.is_valid(BASE)
    assert validator.is_valid({**BASE, "search": {**SEARCH, "name": "pb2"}})
    assert not validator.is_valid({**BASE, "search": {**SEARCH, "name": "pbd"}})
    assert not validator.is_valid({**BASE, "search": {**SEARCH, "generation": 3}})
    banded = {name: table for name, table in BASE.items() if name != "search"}
    rule = {"name": "hyperband", "metric": "val/nll", "mode": "min"}
    assert validator.is_valid({**banded, "scheduler": rule})
    assert not validator.is_valid({**banded, "scheduler": {**rule, "name": "hyperbands"}})


def test_halves_by_hand_are_a_chain(tmp_path: Path) -> None:
    """Runs the same segments without a search: one stage resumes from another, with another learning rate."""
    tables = {name: BASE[name] for name in ("kind", "data", "model", "method", "budget")}
    spec = {
        "name": "halves",
        "seeds": 2,
        "stages": {
            "begin": {**tables, "segment": {"until": 0.5}},
            "end": {**tables, "segment": {"from": "begin"}, "optimizer": {"lr": 0.01}},
        },
    }
    del spec["seeds"]
    assert run(spec, tmp_path / "out", local=True).exit_code == 0
    runs = Results(tmp_path / "out").runs().set_index("stage")
    assert runs.loc["end", "parent_key"] == runs.loc["begin", "run_key"]
    steps = Results(tmp_path / "out").metrics().groupby("run_key", observed=True)["step"].agg(["min", "max"])
    assert steps.loc[runs.loc["begin", "run_key"], "max"] == 20
    assert steps.loc[runs.loc["end", "run_key"], "min"] > 20
    assert steps.loc[runs.loc["end", "run_key"], "max"] == 40
