"""Studies that decide, on Ray, with their driver killed in the middle: the same decisions and the same numbers as without."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml_spec
from comparing import assert_same_numbers
from driving import AGENTS, Patience, driving
from watching import checkpoints

from orchestrator.journal import Journal
from orchestrator.results import Results
from reports.layout import RunFolder
from reports.records import Status
from reports.store import Store

pytestmark = pytest.mark.ray

METHOD = [{"name": "set", "density": 0.5, "schedule": {"every": 5}}]
BUDGET = {"epochs": 4, "batch_size": 64, "checkpoint_every_s": 0.2}
RATES = [0.2, 1e-6, 0.1, 1e-7, 0.05]
ASHA = {"name": "asha", "metric": "val/accuracy", "grace": 0.25, "reduction_factor": 2}
SPACE = {
    "optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True},
    "optimizer.momentum": {"low": 0.0, "high": 0.95},
}
TABLES: dict[str, dict[str, Any]] = {
    "hyperband": {"grid": {"optimizer.lr": RATES}, "scheduler": {**ASHA, "name": "hyperband"}},
    "pbt": {
        "search": {
            "name": "pbt",
            "max_trials": 4,
            "generations": 3,
            "metric": "val/nll",
            "mode": "min",
            "space": SPACE,
        }
    },
}


def spec_of(name: str, folder: Path, **tables: Any) -> Path:
    spec = yaml_spec.spec_of(METHOD, name=name, seeds=2, **{"budget": BUDGET, **tables})
    return yaml_spec.write(folder / f"{name}.yaml", spec)


def decisions(folder: Path) -> list[Any]:
    """What was written down of who goes on, or who goes on from whom."""
    found = [*folder.glob("decisions/*-rungs.jsonl"), *folder.glob("searches/*.jsonl")]
    return [line for path in found for line in Journal(path).lines()]


def statuses(folder: Path) -> dict[str, Status]:
    return {key: status for key, (status, _) in Store(RunFolder(folder)).statuses().items()}


def run_to_end(*arguments: str | Path, folder: Path, env: dict[str, str]) -> None:
    with driving(*arguments, folder=folder, env=env) as driver:
        assert driver.wait(within_s=480) == 0, driver.said()
        driver.seconds_until_gone()


def kill_in_the_middle(spec: Path, folder: Path, env: dict[str, str], *, decided: Callable[[], bool]) -> None:
    """After a decision, when trainings that go on from it have left checkpoints."""
    patience = Patience(folder.parent, 0.03)
    with driving("run", spec, "--out", folder.name, folder=folder.parent, env=env | patience.env) as driver:
        driver.wait_until(decided, within_s=480)
        known = checkpoints(folder)
        driver.wait_until(lambda: bool(checkpoints(folder) - known), within_s=240)
        driver.send(signal.SIGKILL)
        driver.wait(within_s=10)
        driver.seconds_until_gone(besides=AGENTS)


@pytest.mark.parametrize(("name", "number"), [("hyperband", 1), ("pbt", 2)])
def test_a_killed_driver_decides_as_an_undisturbed_one(
    name: str, number: int, env: dict[str, str], tmp_path: Path
) -> None:
    """Two configurations, or generations, in the middle of their way; two trials at once against one after the other."""
    spec, folder, quiet = spec_of(name, tmp_path, **TABLES[name]), tmp_path / "out", tmp_path / "quiet"
    run_to_end("run", spec, "--out", "quiet", "--local", folder=tmp_path, env=env)
    kill_in_the_middle(spec, folder, env, decided=lambda: len(decisions(folder)) >= number)
    before = decisions(folder)
    assert len(before) < len(decisions(quiet)), "there was nothing left to decide"
    run_to_end("resume", "out", folder=tmp_path, env=env)
    assert decisions(folder) == decisions(quiet)
    assert decisions(folder)[: len(before)] == before
    assert statuses(folder) == statuses(quiet)
    assert_same_numbers(folder, quiet)
    if name == "pbt":
        runs = Results(folder).runs().set_index("run_key")
        assert runs["parent_key"].notna().sum() == 2 * 4 * 2
        children = [
            member
            for entry in before[1:]
            for number, member in enumerate(entry["members"])
            if member["parent"] != number
        ]
        assert children, "nobody made room for anybody"


def test_asha_with_its_driver_killed_forgets_nothing_that_it_heard(
    env: dict[str, str], tmp_path: Path
) -> None:
    spec, folder = spec_of("asha", tmp_path, grid={"optimizer.lr": RATES}, scheduler=ASHA), tmp_path / "out"
    (plain := tmp_path / "plain").mkdir()
    whole = spec_of("whole", plain, grid={"optimizer.lr": RATES})
    run_to_end("run", whole, "--out", "whole", "--local", folder=tmp_path, env=env)
    kill_in_the_middle(spec, folder, env, decided=lambda: Status.PRUNED in statuses(folder).values())
    (journal,) = (folder / "decisions").iterdir()
    heard, runs = Journal(journal).lines(), Results(folder).runs().set_index("run_key")
    run_to_end("resume", "out", folder=tmp_path, env=env)
    after = Results(folder).runs().set_index("run_key")
    assert Journal(journal).lines()[: len(heard)] == heard
    ended = runs[runs["status"].isin(["PRUNED", "COMPLETED"])]
    assert "PRUNED" in set(ended["status"])
    for column in ("status", "attempt", "started_at"):
        assert after.loc[ended.index, column].equals(ended[column]), "what had ended was touched"
    rates = after["spec_json"].str.extract(r'"lr":([0-9.e-]+)')[0].astype(float)
    stopped = set(rates[runs.index[runs["status"] == "PRUNED"]])
    nearly_done = {entry["key"] for entry in heard if entry["share"] >= 0.75}
    for key in rates.index[rates.isin(stopped)]:
        assert after.loc[key, "status"] == "PRUNED" or key in nearly_done, (
            "a configuration that was stopped went on"
        )
    rows, expected = (
        {(r.run_key, r.step, r.split, r.name): r.value for r in Results(f).metrics().itertuples()}
        for f in (folder, tmp_path / "whole")
    )
    assert rows.items() <= expected.items()


def test_tpe_proposes_on_ray_what_it_proposes_without(env: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    search = {"name": "tpe", "max_trials": 6, "batch": 3, "metric": "val/accuracy", "space": SPACE}
    spec = spec_of("tpe", tmp_path, search=search, budget={**BUDGET, "epochs": 2})
    run_to_end("run", spec, "--out", "quiet", "--local", folder=tmp_path, env=env)
    run_to_end("run", spec, "--out", "out", folder=tmp_path, env=env)
    found, expected = (
        [entry["proposals"] for entry in decisions(tmp_path / f) if "proposals" in entry]
        for f in ("out", "quiet")
    )
    assert found == expected
    assert [len(batch) for batch in found] == [3, 3]
    assert_same_numbers(tmp_path / "out", tmp_path / "quiet")
