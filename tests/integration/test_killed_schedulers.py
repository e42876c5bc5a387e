"""Studies with schedulers and searches on Ray whose driver is killed: decisions are kept, and no number changes."""

import math
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml_spec
from comparing import assert_same_numbers
from driving import StepDelay, driving
from shared_head import SharedHead
from watching import checkpoints

from pruneyard.orchestrator.coordination.journal import Journal
from pruneyard.orchestrator.results import Results
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.nodes]

WITHIN_S = 480

METHOD = [{"name": "set", "density": 0.5, "schedule": {"every": 5}}]
BUDGET = {"epochs": 4, "batch_size": 64, "checkpoint_every_s": 0.2}
NUM_STEPS = 68  # in those epochs
RATES = [0.2, 1e-6, 0.1, 1e-7, 0.05]
ASHA = {"name": "asha", "metric": "val/accuracy", "grace": 0.25, "reduction_factor": 2}
SPACE = {
    "optimizer.lr": {"low": 1e-4, "high": 1.0, "log": True},
    "optimizer.momentum": {"low": 0.0, "high": 0.95},
}
TABLES: dict[str, dict[str, Any]] = {
    "hyperband": {"grid": {"optimizer.lr": RATES}, "scheduler": {**ASHA, "name": "hyperband"}},
    "pbt": {
        "seeds": 1,
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
    spec = yaml_spec.spec_of(METHOD, name=name, **{"seeds": 2, "budget": BUDGET, **tables})
    return yaml_spec.write(folder / f"{name}.yaml", spec)


def decisions(folder: Path) -> list[Any]:
    """Returns the recorded decisions: which trials continue, or resume from which parent."""
    journals = [*folder.glob("decisions/*-rungs.jsonl"), *folder.glob("searches/*.jsonl")]
    return [line for path in journals for line in Journal(path).lines()]


def statuses(folder: Path) -> dict[str, Status]:
    return {key: status for key, (status, _) in Store(RunFolder(folder)).statuses().items()}


def run_locally(spec: Path, out: str, *, folder: Path, env: dict[str, str]) -> None:
    with driving("run", spec, "--out", out, "--local", folder=folder, env=env) as driver:
        assert driver.wait(within_s=WITHIN_S) == 0, driver.output()


def kill_after_decision(spec: Path, folder: Path, head: SharedHead, *, decided: Callable[[], bool]) -> None:
    """Runs the study until it has made a decision and then saved checkpoints; then kills its driver."""
    step_delay = StepDelay(folder.parent, 0.03)
    with head.driving("run", spec, "--out", folder.name, folder=folder.parent, **step_delay.env) as driver:
        driver.wait_until(decided, within_s=WITHIN_S)
        known = checkpoints(folder)
        driver.wait_until(lambda: bool(checkpoints(folder) - known), within_s=WITHIN_S)
        driver.send_signal(signal.SIGKILL)
        driver.wait(within_s=60)


@pytest.mark.parametrize(("name", "number"), [("hyperband", 1), ("pbt", 2)])
def test_a_killed_driver_decides_as_an_uninterrupted_one(
    name: str, number: int, env: dict[str, str], head: SharedHead, tmp_path: Path
) -> None:
    """Two configurations, or generations, in the middle of their way; two trials at once against one at a time."""
    spec, folder, uninterrupted = spec_of(name, tmp_path, **TABLES[name]), tmp_path / "out", tmp_path / "uninterrupted"
    run_locally(spec, "uninterrupted", folder=tmp_path, env=env)
    kill_after_decision(spec, folder, head, decided=lambda: len(decisions(folder)) >= number)
    before = decisions(folder)
    assert len(before) < len(decisions(uninterrupted)), "there was nothing left to decide"
    head.run("resume", "out", folder=tmp_path, within_s=WITHIN_S)
    assert decisions(folder) == decisions(uninterrupted)
    assert decisions(folder)[: len(before)] == before
    assert statuses(folder) == statuses(uninterrupted)
    assert_same_numbers(folder, uninterrupted)
    if name == "pbt":
        runs = Results(folder).runs().set_index("run_key")
        assert runs["parent_key"].notna().sum() == 2 * 4
        children = [
            member
            for entry in before[1:]
            for number, member in enumerate(entry["members"])
            if member["parent"] != number
        ]
        assert children, "no member copied another one"


def stopped_by_asha(reports: Sequence[Mapping[str, Any]], configuration: Mapping[str, float]) -> dict[float, int]:
    """Applies the rule to costs in the order of their reports; returns the entry that stopped each learning rate.

    At a rung the mean over a configuration's seeds is compared with those that came there before. The configuration continues
    if it is in the better half, or alone.
    """
    costs: dict[str, dict[float, float]] = {key: {} for key in configuration}
    rungs: dict[float, dict[float, float]] = {ASHA["grace"] * 2**index: {} for index in range(2)}
    stopped: dict[float, int] = {}
    for index, entry in enumerate(reports):
        costs[entry["key"]][entry["share"]] = entry["cost"]
        rate = configuration[entry["key"]]
        seeds = [costs[key] for key, other in configuration.items() if other == rate]
        for rung, means in rungs.items():
            shares_of_seeds = [[share for share in seed if share >= rung] for seed in seeds]
            if rate in stopped or rate in means or not all(shares_of_seeds):
                continue
            means[rate] = math.fsum(seed[min(shares)] for seed, shares in zip(seeds, shares_of_seeds, strict=True)) / len(seeds)
            if means[rate] not in sorted(means.values())[: max(1, len(means) // 2)]:
                stopped[rate] = index
    return stopped


def test_asha_keeps_its_decisions_when_its_driver_is_killed(
    env: dict[str, str], head: SharedHead, tmp_path: Path
) -> None:
    """Comparisons depend on the order of reports, so decisions are checked against the recorded reports only."""
    spec, folder = spec_of("asha", tmp_path, grid={"optimizer.lr": RATES}, scheduler=ASHA), tmp_path / "out"
    (folder_without_scheduler := tmp_path / "without-scheduler").mkdir()
    spec_without_scheduler = spec_of("whole", folder_without_scheduler, grid={"optimizer.lr": RATES})
    run_locally(spec_without_scheduler, "whole", folder=tmp_path, env=env)
    kill_after_decision(spec, folder, head, decided=lambda: Status.PRUNED in statuses(folder).values())
    (journal,) = (folder / "decisions").iterdir()
    entries_before, runs = Journal(journal).lines(), Results(folder).runs().set_index("run_key")
    head.run("resume", "out", folder=tmp_path, within_s=WITHIN_S)
    lines, after = Journal(journal).lines(), Results(folder).runs().set_index("run_key")
    assert lines[: len(entries_before)] == entries_before
    assert len({(entry["key"], entry["share"]) for entry in lines}) == len(lines), "a rung was decided twice"
    ended = runs[runs["status"].isin(["PRUNED", "COMPLETED"])]
    for column in ("status", "attempt", "started_at"):
        assert after.loc[ended.index, column].equals(ended[column]), "a run that had ended was changed"

    rates = after["spec_json"].str.extract(r'"lr":([0-9.e-]+)')[0].astype(float).to_dict()
    stopped = stopped_by_asha(lines, rates)
    stopped_before_kill = {rate for rate, index in stopped.items() if index < len(entries_before)}
    assert {rates[key] for key in ended.index[ended["status"] == "PRUNED"]} <= stopped_before_kill
    assert any(entry["share"] == ASHA["grace"] for entry in lines[len(entries_before) :]), "there was nothing left to decide"
    metrics = Results(folder).metrics()
    for key, rate in rates.items():
        shares = [entry["share"] for entry in lines if entry["key"] == key]
        assert after.loc[key, "status"] == ("COMPLETED" if shares[-1] == 1 else "PRUNED")
        assert metrics[metrics["run_key"] == key]["step"].max() <= shares[-1] * NUM_STEPS
        if rate not in stopped:
            assert shares == [0.25, 0.5, 0.75, 1.0], "a promoted configuration did not continue"
            continue
        later = [entry for entry in lines[stopped[rate] + 1 :] if entry["key"] == key]
        assert len(later) <= 1, "a stopped configuration ran beyond the share that one of its seeds had started"
    rows, expected = (
        {(r.run_key, r.step, r.split, r.name): r.value for r in Results(f).metrics().itertuples()}
        for f in (folder, tmp_path / "whole")
    )
    assert rows.items() <= expected.items()


def test_tpe_proposes_on_ray_what_it_proposes_without(
    env: dict[str, str], head: SharedHead, tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    search = {"name": "tpe", "max_trials": 6, "batch": 3, "metric": "val/accuracy", "space": SPACE}
    spec = spec_of("tpe", tmp_path, seeds=1, search=search, budget={**BUDGET, "epochs": 2})
    run_locally(spec, "uninterrupted", folder=tmp_path, env=env)
    head.run("run", spec, "--out", "out", folder=tmp_path)
    found, expected = (
        [entry["proposals"] for entry in decisions(tmp_path / f) if "proposals" in entry]
        for f in ("out", "uninterrupted")
    )
    assert found == expected
    assert [len(batch) for batch in found] == [3, 3]
    assert_same_numbers(tmp_path / "out", tmp_path / "uninterrupted")
