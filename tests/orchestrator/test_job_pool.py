"""Stages in one pool: searches, choices and other resources keep nobody waiting, crashes are retried at once, failures go on."""

from pathlib import Path
from typing import Any

import pytest

from pruneyard import run
from pruneyard.orchestrator.driver import run as population
from pruneyard.orchestrator.errors import ExitCode, RankDiedError
from pruneyard.orchestrator.execution.attempt_runner import AttemptRunner
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.local_backend.study import run_local
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

CODE = '''
def score(rate=0.1, base=0.0):
    return {"score": rate + base}
'''
SPACE = {"arguments.rate": {"low": 0.0, "high": 1.0}}
TRAIN: dict[str, Any] = {
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 30},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "method": {"name": "static", "density": 0.5},
    "budget": {"steps": 1, "batch_size": 16},
}
TRUST: dict[str, Any] = {"kind": "calibrate", "input": {"from": "train"}, "method": "none"}


@pytest.fixture
def functions(tmp_path: Path) -> str:
    (tmp_path / "functions.py").write_text(CODE)
    return f"{tmp_path}/functions.py"


def counting(calls: list[int]) -> Any:
    def counted(attempts: Any, **options: Any) -> None:
        calls.append(len(attempts))
        run_local(attempts, **options)

    return counted


def test_a_search_a_choice_and_other_resources_share_one_pool(
    tmp_path: Path, functions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice is made and the second round is proposed while `last` still waits: stages that do not need them go on."""
    calls: list[int] = []
    monkeypatch.setattr(population, "run_local", counting(calls))
    search = {"name": "tpe", "max_trials": 4, "batch": 2, "metric": "val/score", "mode": "max", "space": SPACE}
    spec = {
        "name": "pool",
        "stages": {
            "search": {"kind": "function", "function": f"{functions}:score", "search": search},
            "train": {**TRAIN, "seeds": 2, "grid": {"model.width": [4, 8]}},
            "best": {**TRUST, "input": {"from": "train", "best": "val/accuracy"}},
            "last": {"kind": "function", "function": f"{functions}:score", "arguments": {"rate": 0.5}, "resources": {"cpus": 2}},
        },
    }
    results = run(spec, tmp_path / "out", local=True)
    assert results.exit_code == ExitCode.FINISHED
    assert len(calls) == 1
    runs = results.runs().sort_values("started_at")["stage"].tolist()
    assert runs == ["search"] * 4 + ["train"] * 4 + ["best"] * 2 + ["last"]


def test_a_crashed_trial_is_retried_before_others_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed: list[str] = []
    advance = AttemptRunner.advance

    def dying_once(runner: AttemptRunner) -> Report:
        if not crashed:
            crashed.append(runner.planned.job.key)
            raise RankDiedError("gone")
        return advance(runner)

    monkeypatch.setattr(AttemptRunner, "advance", dying_once)
    spec = {"name": "crash", "stages": {"train": {**TRAIN, "seeds": 2}, "trust": TRUST}}
    assert run(spec, tmp_path, local=True).exit_code == ExitCode.FINISHED
    rows = Store(RunFolder(tmp_path)).runs(latest=False).sort_by("started_at").to_pylist()
    assert [(row["stage"], row["seed"], row["attempt"], row["status"]) for row in rows] == [
        ("train", 0, 1, "FAILED"),
        ("train", 0, 2, "COMPLETED"),
        ("trust", 0, 1, "COMPLETED"),
        ("train", 1, 1, "COMPLETED"),
        ("trust", 1, 1, "COMPLETED"),
    ]


def test_fail_fast_records_what_depends_on_the_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second seed is not run, and what depends on it alone stays to be run."""

    def failing(runner: AttemptRunner, outcome: object) -> None:
        raise ValueError("made up")

    monkeypatch.setattr(AttemptRunner, "_write_artifact", failing)
    again = {**TRUST, "kind": "merge", "input": {"from": "train", "over": "all"}, "method": {"name": "uniform"}}
    spec = {"name": "fast", "stages": {"train": {**TRAIN, "seeds": 2}, "trust": TRUST, "soup": again}}
    results = run(spec, tmp_path, local=True, fail_fast=True)
    assert results.exit_code == ExitCode.FAILED
    runs = results.runs()
    assert set(runs["status"]) == {"FAILED"}
    assert runs["stage"].tolist() == ["train", "trust", "soup"]
    (key,) = runs[runs["stage"] == "train"]["run_key"]
    (error,) = set(runs[runs["stage"] != "train"]["error"])
    assert error.startswith(f"its input {key} of stage train failed: ValueError: made up (test_job_pool.py:")


def test_a_stop_fails_nothing_because_of_an_earlier_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call fails the network and what depends on it. The second is stopped before its new attempt begins."""
    write = AttemptRunner._write_artifact

    def failing(runner: AttemptRunner, outcome: object) -> None:
        raise ValueError("made up")

    spec = {"name": "stopped", "stages": {"train": {**TRAIN, "seeds": 2}, "trust": TRUST}}
    monkeypatch.setattr(AttemptRunner, "_write_artifact", failing)
    assert run(spec, tmp_path, local=True).exit_code == ExitCode.FAILED
    before = Store(RunFolder(tmp_path)).runs(latest=False)
    assert before.num_rows == 4

    def stopping(attempts: Any, *, stop: Any, **options: Any) -> None:
        stop.request()

    monkeypatch.setattr(AttemptRunner, "_write_artifact", write)
    monkeypatch.setattr(population, "run_local", stopping)
    run(spec, tmp_path, local=True)
    assert Store(RunFolder(tmp_path)).runs(latest=False).equals(before)
