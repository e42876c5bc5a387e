"""Functions that are asked to stop: where they end, what is saved, and that nothing of them is left."""

import threading
import time
from pathlib import Path

import pytest
from function_runs import function_threads, job_of, numbers

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.function import handover
from pruneyard.workloads.function.context import FunctionContext
from pruneyard.workloads.workload import Context, InterruptedJobError, StillRunningError


def test_a_function_that_ends_after_a_stop_without_having_asked_has_finished(tmp_path: Path) -> None:
    def ends(context: FunctionContext) -> dict[str, float]:
        context.report(step=1, accuracy=0.1)
        return {"accuracy": 0.2}

    context = Context(checkpoints=CheckpointFolder(tmp_path), should_stop=lambda: True)
    (*_, last) = job_of(ends).run(context)
    assert last.outcome is not None


def test_closing_a_job_ends_its_function_where_it_waits_and_runs_its_cleanup(tmp_path: Path) -> None:
    ended = []

    def cleans(context: FunctionContext) -> None:
        try:
            while True:
                try:
                    context.report(accuracy=0.1)
                except Exception:
                    ended.append("caught")
        finally:
            ended.append("cleaned")

    job = job_of(cleans).run(Context(checkpoints=CheckpointFolder(tmp_path)))
    next(job)
    job.close()  # type: ignore[attr-defined]
    assert ended == ["cleaned"]
    assert not function_threads()


def test_a_function_that_does_not_end_after_a_stop_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "STOP_TIMEOUT_S", 0.05)
    may_end = tmp_path / "may_end"

    def hangs(context: FunctionContext) -> None:
        try:
            context.report(accuracy=0.1)
        finally:
            while not may_end.exists():
                time.sleep(0.01)

    job = job_of(hangs).run(Context(checkpoints=CheckpointFolder(tmp_path)))
    next(job)
    with pytest.raises(StillRunningError, match=r"hangs was stopped and has not ended after 0.05 s"):
        job.close()  # type: ignore[attr-defined]
    may_end.touch()
    (left,) = [thread for thread in threading.enumerate() if thread.name == "function hangs"]
    left.join()


def test_a_stop_is_told_to_a_function_with_long_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruneyard.workloads.workload.STOP_CHECK_EVERY_S", 0.0)
    asked = iter([False, True])

    def polls(context: FunctionContext) -> None:
        context.report(step=1, accuracy=0.1)
        if context.should_stop:
            context.checkpoint({"epoch": 1})
        raise AssertionError("it continues after its checkpoint")

    context = Context(checkpoints=CheckpointFolder(tmp_path), should_stop=lambda: next(asked, True))
    with pytest.raises(InterruptedJobError) as stopped:
        list(job_of(polls).run(context))
    assert stopped.value.step == 1


def test_a_checkpoint_of_a_function_that_asked_before_its_first_report_is_saved_and_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruneyard.workloads.workload.STOP_CHECK_EVERY_S", 0.0)
    batches = []

    def polls(context: FunctionContext) -> dict[str, float]:
        first = (context.restore() or {"batch": 0})["batch"]
        for batch in range(first + 1, 5):
            batches.append(batch)
            if context.should_stop:
                context.checkpoint({"batch": batch})
        return {"batches": len(batches)}

    asked = Context(checkpoints=CheckpointFolder(tmp_path), should_stop=lambda: True)
    for step in (1, 2):  # a resumed run has not reported either
        with pytest.raises(InterruptedJobError):
            list(job_of(polls).run(asked))
        assert batches == list(range(1, step + 1))
    (last,) = job_of(polls).run(Context(checkpoints=CheckpointFolder(tmp_path)))
    assert numbers([last]) == [(1, "val", "batches", 4.0)]
