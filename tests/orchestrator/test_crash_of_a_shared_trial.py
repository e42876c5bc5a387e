"""The process of several jobs dies after some of them have ended: those are finished, and a failure among them counts as one."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pruneyard.orchestrator.artifacts.write_buffer import WriteBuffer
from pruneyard.orchestrator.coordination.stop_request import stop_request
from pruneyard.orchestrator.driver.context import StudyRun
from pruneyard.orchestrator.driver.job_pool import JobPool
from pruneyard.orchestrator.driver.run import NoDisplay, run
from pruneyard.orchestrator.errors import ExitCode
from pruneyard.orchestrator.execution.record import make_record
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.planning.plan import make_plan
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.attempt import Attempt
from pruneyard.reports.durable import FilesTogether
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

SPEC: dict[str, Any] = {
    "name": "nets",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 600, "max_test": 200},
    "model": {"name": "mlp", "width": 8},
    "method": {"name": "dense"},
    "budget": {"epochs": 2, "batch_size": 32},
    "seeds": 4,
}


def end(buffer: WriteBuffer, planned: PlannedAttempt, status: Status) -> None:
    """Writes what a trial does when a job ends, without the rows."""
    run = make_record(
        planned,
        study="nets",
        status=status,
        started_at=datetime.now(UTC),
        wall_s=0.1,
        device="cpu",
        num_workers=1,
        error="Traceback\nValueError: bad" if status is Status.FAILED else None,
    )
    buffer.add_written(Attempt(run=run, metrics=[], curves=[]), FilesTogether())


@pytest.mark.parametrize("fail_fast", [False, True])
def test_jobs_that_ended_before_the_crash_are_finished_and_the_last_one_alone_is_repeated(
    fail_fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pruneyard.orchestrator.artifacts.write_buffer.MAX_BUFFERED_S", 1000.0)
    spec, folder = load_spec(SPEC), RunFolder(tmp_path)
    calls: list[list[tuple[str, int]]] = []

    def run_attempts(attempts: Sequence[PlannedAttempt], *, jobs: JobPool, **_: Any) -> None:
        calls.append([(planned.job.key, planned.attempt) for planned in attempts])
        if len(calls) > 1:
            return
        end(WriteBuffer(folder), attempts[0], Status.COMPLETED)
        end(WriteBuffer(folder), attempts[1], Status.FAILED)
        assert not Store(folder).statuses()
        again = jobs.after_crash(attempts[:3], {attempts[2].job.key: "the worker died: SIGKILL"})
        calls.append([(planned.job.key, planned.attempt) for planned in again])
        for planned in [] if fail_fast else [*again, attempts[3]]:
            end(buffer := WriteBuffer(folder), planned, Status.COMPLETED)
            buffer.write()

    with stop_request(tmp_path) as stop:
        monitor = Monitor(total=4, num_already_done=0)
        plan = make_plan(spec, folder)
        study_run = StudyRun(
            plan=plan, monitor=monitor, stop=stop, display=NoDisplay(), fail_fast=fail_fast, data={}
        )
        JobPool(spec.stages, study_run, only=None).run_all(run_attempts)
        keys = [job.key for job in spec.jobs]
        assert calls == [[(key, 1) for key in keys], [(keys[2], 2)]]
        assert stop.requested == fail_fast
    assert [(failure.run_key, failure.error) for failure in monitor.failures] == [
        (keys[1], "ValueError: bad")
    ]
    assert monitor.ended.get(keys[0]) is Status.COMPLETED
    found = Store(folder).statuses()
    assert found[keys[0]] == (Status.COMPLETED, 1)
    assert found[keys[1]] == (Status.FAILED, 1)
    assert found[keys[2]] == ((Status.FAILED, 1) if fail_fast else (Status.COMPLETED, 2))


def test_what_a_killed_study_left_half_written_is_dropped_when_its_job_runs_again(tmp_path: Path) -> None:
    spec = {**SPEC, "seeds": 1}
    (planned,) = make_plan(load_spec(spec), RunFolder(tmp_path)).attempts()
    end(WriteBuffer(RunFolder(tmp_path)), planned, Status.FAILED)
    artifact = RunFolder(tmp_path).artifact(planned.job.key)
    assert [path.name for path in artifact.iterdir()] == [".record-1.json.unflushed"]
    assert run(spec, tmp_path, local=True).exit_code == ExitCode.FINISHED
    assert Store(RunFolder(tmp_path)).statuses() == {planned.job.key: (Status.COMPLETED, 1)}
    assert not [path.name for path in artifact.iterdir() if path.name.startswith(".")]
