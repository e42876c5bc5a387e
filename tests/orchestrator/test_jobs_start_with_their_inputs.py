"""Stages that run together: order of jobs, failures, and numbers that do not depend on the order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_series_equal

from pruneyard import run
from pruneyard.orchestrator.driver.stage_groups import next_stages
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.execution.later_jobs import LaterJobs
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

DISTIL: dict[str, Any] = {
    "kind": "distill",
    "method": {"name": "random", "ipc": 2},
    "model": {"name": "mlp", "width": 8},
    "evaluation": {"networks": 1, "epochs": 1, "augment": ""},
    "seeds": 2,
}
TRAIN: dict[str, Any] = {
    "kind": "sparse",
    "data": {"from": "distil"},
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 2, "batch_size": 5},
}
TRUST: dict[str, Any] = {
    "kind": "calibrate",
    "input": {"from": "train"},
    "grid": {"method": ["none", "temperature"]},
}
BOTH: dict[str, Any] = {
    "kind": "calibrate",
    "input": {"from": "train", "over": "seed"},
    "method": "temperature",
}


def chain(**stages: dict[str, Any]) -> dict[str, Any]:
    return {"name": "chain", "data": {"name": "digits", "max_train": 200, "max_test": 60}, "stages": stages}


def values(folder: Path) -> pd.Series:
    rows = Results(folder).metrics().astype({"run_key": str, "split": str, "name": str})
    return rows.set_index(["run_key", "split", "name", "step"])["value"].sort_index()


@dataclass(frozen=True)
class FakeJob:
    """The part of a job that decides when it starts."""

    key: str
    parents: tuple[str, ...] = ()
    workload: Any = None


def test_an_attempt_can_start_after_the_last_of_its_inputs_and_once() -> None:
    """By hand: c waits for a and b, d for a, e for b."""
    attempts: dict[str, Any] = {key: PlannedAttempt(job=FakeJob(key), attempt=1) for key in "cde"}  # type: ignore[arg-type]
    later = LaterJobs()
    for key, runs in (("c", "ab"), ("d", "a"), ("e", "b")):
        later.add(attempts[key], frozenset(runs))
    assert later.completed("a") == [attempts["d"]]
    assert later.completed("a") == []
    assert later.waiting == [attempts["c"], attempts["e"]]
    assert later.failed("b") == [attempts["c"], attempts["e"]]
    assert later.completed("b") == []
    assert later.waiting == []


def test_only_what_depends_on_a_stage_under_hyperband_waits_for_it() -> None:
    rungs = {"name": "hyperband", "metric": "val/accuracy", "grace": 0.5, "reduction_factor": 2.0}
    best = {**TRUST, "input": {"from": "train", "best": "val/accuracy"}}
    other = {**TRAIN, "data": {"name": "digits"}}

    def names(**stages: dict[str, Any]) -> list[list[str | None]]:
        left, groups = list(load_spec(chain(**stages)).stages), []
        while left:
            groups.append([stage.name for stage in next_stages(left)])
            left = [stage for stage in left if stage.name not in groups[-1]]
        return groups

    assert names(distil=DISTIL, train=TRAIN, best=best, trust={**TRUST, "resources": {"cpus": 2}}) == [
        ["distil", "train", "best", "trust"]
    ]
    assert names(distil=DISTIL, train={**TRAIN, "scheduler": rungs}, trust=TRUST, other=other) == [
        ["distil", "other"],
        ["train"],
        ["trust"],
    ]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stages have run together."""
    folder = tmp_path_factory.mktemp("together") / "out"
    assert (
        run(chain(distil=DISTIL, train=TRAIN, trust=TRUST, both=BOTH), folder, local=True).exit_code
        == ExitCode.FINISHED
    )
    return folder


def test_a_job_starts_when_its_own_inputs_are_finished_and_not_its_stage(together: Path) -> None:
    runs = Results(together).runs().sort_values("started_at")
    assert runs["stage"].tolist() == [
        "distil",
        "train",
        "trust",
        "trust",
        "distil",
        "train",
        "trust",
        "trust",
        "both",
    ]
    ended = runs.set_index("run_key")["ended_at"]
    for _, row in runs[runs["stage"] != "distil"].iterrows():
        assert all(ended[parent] <= row["started_at"] for parent in row["parent_key"].split(","))


def test_numbers_keys_and_records_are_those_of_stages_that_run_one_after_the_other(
    together: Path, tmp_path: Path
) -> None:
    tables: dict[str, Any] = {"distil": DISTIL, "train": TRAIN, "trust": TRUST, "both": BOTH}
    for number in range(1, len(tables) + 1):
        run(chain(**dict(list(tables.items())[:number])), tmp_path, local=True, add=True)
    runs = Results(tmp_path).runs().sort_values("started_at")
    assert runs["stage"].tolist() == ["distil"] * 2 + ["train"] * 2 + ["trust"] * 4 + ["both"]
    found, expected = values(together), values(tmp_path)
    timed = expected.index.get_level_values("name").str.contains("_s$|seconds")
    assert_series_equal(found[~timed], expected[~timed], check_exact=True)
    assert Store(RunFolder(together)).data_records() == Store(RunFolder(tmp_path)).data_records()


def test_a_failed_input_fails_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    """The second rate makes the evaluating network overflow."""
    distil = {**DISTIL, "seeds": 1, "grid": {"evaluation.lr": [1e30, 0.01]}}
    results = run(chain(distil=distil, train=TRAIN, trust=TRUST), tmp_path, local=True)
    assert results.exit_code == ExitCode.FAILED
    runs = results.runs()
    counts = runs.groupby(["stage", "status"], observed=True).size().to_dict()
    assert counts == {
        (stage, status): 1 for stage in ("distil", "train") for status in ("COMPLETED", "FAILED")
    } | {
        ("trust", "COMPLETED"): 2,
        ("trust", "FAILED"): 2,
    }
    failed = runs[runs["status"] == "FAILED"]
    by_stage = failed.drop_duplicates("stage").set_index("stage")
    cause = by_stage.loc["distil", "error"].strip().splitlines()[-1]
    of_train = f"its input {by_stage.loc['distil', 'run_key']} of stage distil failed: {cause}"
    assert by_stage.loc["train", "error"] == of_train
    assert set(failed[failed["stage"] == "trust"]["error"]) == {
        f"its input {by_stage.loc['train', 'run_key']} of stage train failed: {of_train}"
    }
    again = run(chain(distil=distil, train=TRAIN, trust=TRUST), tmp_path, local=True)
    assert again.exit_code == ExitCode.FAILED
    assert len(again.runs()) == 8


def test_a_job_that_does_not_fit_what_was_made_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever can be checked only when an input is there fails the jobs on it, not the study."""
    from pruneyard.orchestrator.driver import stage_groups
    from pruneyard.orchestrator.errors import UsageError

    original, refused = stage_groups.load_data, list[str]()

    def load_data(jobs: Any, spec: Any, **options: Any) -> Any:
        for job in jobs:
            if job.stage == "train" and not refused:
                refused.append(job.key)
                raise UsageError("data: the set is not what it should be")
        return original(jobs, spec, **options)

    monkeypatch.setattr(stage_groups, "load_data", load_data)
    runs = run(chain(distil=DISTIL, train=TRAIN, trust=TRUST), tmp_path, local=True).runs()
    failed = runs[runs["status"] == "FAILED"]
    assert failed["stage"].value_counts().to_dict() == {"train": 1, "trust": 2}
    assert failed.set_index("run_key").loc[refused[0], "error"] == "data: the set is not what it should be"
    assert runs["status"].value_counts()["COMPLETED"] == 2 + 1 + 2
