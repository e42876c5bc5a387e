"""A trial of several jobs: the driver reports those that have ended while one takes long, and a storage fault halves no job."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_up_study import metric, record

from pruneyard.orchestrator.artifacts.write_buffer import WriteBuffer
from pruneyard.orchestrator.coordination.control_files import pruned_file
from pruneyard.orchestrator.coordination.stop_request import StopRequest
from pruneyard.orchestrator.execution.report import Report, report_of
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.ray_backend import study
from pruneyard.orchestrator.ray_backend.claims import claim
from pruneyard.orchestrator.ray_backend.study import _StopOnRequest, _StudyCallback
from pruneyard.orchestrator.ray_backend.trial_process import PLACE, REPORTS, WARNINGS
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.attempt import Attempt
from pruneyard.reports.durable import FilesTogether
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.storage import StorageError
from pruneyard.reports.store import Store

KEYS = "abcde"


def attempt_of(key: str) -> Attempt:
    return Attempt(run=record(key), metrics=[metric(0.5), metric(0.2, step=5)], curves=[])


class Driven:
    """A driver's side of one trial of five jobs, with what it passed on: reports, and jobs that wait again."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)
        pruned_file(self.folder, "").mkdir()
        self.attempts = [
            SimpleNamespace(
                job=SimpleNamespace(key=key, stage=None, label=key), attempt=1, resources=Resources()
            )
            for key in KEYS
        ]
        self.created: list[list[Any]] = [list(self.attempts)]
        self.passed_on: list[Report] = []
        self.monitor = Monitor(total=5, num_already_done=0)
        self.monitor.expect(self.attempts)  # type: ignore[arg-type]
        self.stop = StopRequest(folder / ".stop")
        self.callback = _StudyCallback(
            self,  # type: ignore[arg-type]
            self.folder,
            placement=SimpleNamespace(record=lambda report: None),  # type: ignore[arg-type]
            monitor=self.monitor,
            stop=self.stop,
            show=lambda: None,
            fail_fast=False,
            jobs=SimpleNamespace(must_stop=lambda report: False, after=self._after),  # type: ignore[arg-type]
            start_later=lambda ready: None,
        )
        self.trial: Any = SimpleNamespace(trial_id="t", config={"index": 0})
        self.buffer = WriteBuffer(self.folder)
        self.callback.on_trial_start(0, [], self.trial)

    def _after(self, report: Report) -> list[Any]:
        assert report.run_key in Store(self.folder).statuses(), "a job is reported before it has rows"
        self.passed_on.append(report)
        return []

    def take_back(self, index: int, place: int) -> None:
        del self.created[index][place:]

    def record(self, stage: str | None, seconds: float) -> None:
        """Is told how long a job took."""

    def end(self, *keys: str) -> list[Report]:
        """Lets the trial end these jobs and claim the next ones, as it does before it writes and reports."""
        reports = []
        for key in keys:
            files, ended = FilesTogether(), attempt_of(key)
            files.add(self.folder.artifact(key) / "model", b"")
            self.buffer.add_written(ended, files)
            reports.append(report_of(ended))
            claim(self.folder, "t", KEYS.index(key) + 1)
        return reports

    def report(
        self, reports: Sequence[Report], *, done: bool, warnings: Sequence[tuple[str, Sequence[str]]] = ()
    ) -> None:
        result = {
            REPORTS: [dict(vars(report)) for report in reports],
            WARNINGS: warnings,
            PLACE: None,
            "done": done,
        }
        self.callback.on_trial_result(0, [], self.trial, result)

    def silence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        later = self.callback._shared["t"].since + study.TAKE_BACK_AFTER_S + 1
        for seconds in (0.0, 0.9, 1.8):  # Tune steps more often than once in `AWAY_S`
            self.step(later + seconds, monkeypatch)

    def step(self, now: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lets Tune end a step at this time."""
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: now)
            self.callback.on_step_end(0, [])
        if self.callback.error is not None:
            raise self.callback.error


@pytest.fixture
def driven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driven:
    monkeypatch.setattr("pruneyard.orchestrator.artifacts.write_buffer.MAX_BUFFERED_S", 1000.0)
    return Driven(tmp_path)


def test_what_ended_before_a_long_job_is_reported_once_and_what_follows_waits_again(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = driven.end("a", "b")
    assert not driven.passed_on
    driven.silence(monkeypatch)
    assert driven.created == [driven.attempts[:3]]
    assert [(report.run_key, report.status) for report in driven.passed_on] == [
        ("a", Status.COMPLETED),
        ("b", Status.COMPLETED),
    ]
    assert driven.passed_on[0].metrics == {"test/accuracy": 0.5}
    assert list(driven.monitor.running) == ["c"]
    # The long one ends at last, and the trial writes and reports all three.
    reports += driven.end("c")
    driven.buffer.write()
    driven.report(reports, done=True)
    assert [report.run_key for report in driven.passed_on] == ["a", "b", "c"]
    assert not driven.monitor.running
    assert driven.callback.error is None
    assert sorted(Store(driven.folder).runs()["run_key"].to_pylist()) == ["a", "b", "c"]


def test_nothing_is_taken_back_while_reports_wait_since_the_driver_was_away(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = driven.end("a")
    returned = driven.callback._shared["t"].since + study.TAKE_BACK_AFTER_S + 10
    driven.step(returned, monkeypatch)
    assert driven.created == [driven.attempts]
    driven.buffer.write()
    driven.report(reports, done=False)
    assert [report.run_key for report in driven.passed_on] == ["a"]


def test_a_warning_names_the_job_of_a_shared_trial_that_gave_it(
    driven: Driven, caplog: pytest.LogCaptureFixture
) -> None:
    reports = driven.end("a", "b")
    driven.buffer.write()
    driven.report(reports, done=False, warnings=[("a", ["too few rows"])])
    assert caplog.messages == [f"a ({driven.monitor.labels['a']}): too few rows"]


def test_what_the_trial_has_reported_is_not_asked_for_again(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = driven.end("a", "b")
    driven.buffer.write()
    driven.report(reports, done=False)
    assert list(driven.monitor.running) == ["c"]
    asked: list[Any] = []
    finish = Store.finish
    monkeypatch.setattr(
        Store, "finish", lambda store, owners: finish(store, asked.append(found := list(owners)) or found)
    )
    driven.end("c")
    driven.silence(monkeypatch)
    assert asked == [[("c", 1)]]
    assert [report.run_key for report in driven.passed_on] == ["a", "b", "c"]
    assert list(driven.monitor.running) == ["d"]


def test_a_report_on_its_way_while_the_driver_takes_back_counts_once(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = driven.end("a", "b")
    driven.buffer.write()
    driven.silence(monkeypatch)
    driven.report(reports, done=False)
    assert [report.run_key for report in driven.passed_on] == ["a", "b"]
    assert list(driven.monitor.running) == ["c"]
    driven.report([], done=True)  # a stop
    assert not driven.monitor.running


def test_during_a_stop_the_trial_stays_known_by_the_job_that_the_stop_awaits(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune would kill the long job without a record if the study counted as stopped before the trial reports."""
    stopper = _StopOnRequest(driven.stop, driven.monitor)
    reports = driven.end("a", "b")
    driven.stop.request()
    assert not stopper.stop_all()
    driven.silence(monkeypatch)
    assert not stopper.stop_all()
    driven.buffer.write()
    driven.report(reports, done=True)
    assert stopper.stop_all()


def test_a_stop_after_the_driver_took_back_awaits_the_long_job(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopper = _StopOnRequest(driven.stop, driven.monitor)
    reports = driven.end("a", "b")
    driven.silence(monkeypatch)
    driven.stop.request()
    assert not stopper.stop_all()
    reports += driven.end("c")
    driven.buffer.write()
    driven.report(reports, done=True)
    assert stopper.stop_all()


def test_storage_that_fails_leaves_no_row_without_its_record(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the process may have another trial, whose jobs must not bring rows of the lost ones with them."""
    driven.end("a", "b")

    def fail(groups: object) -> None:
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("pruneyard.orchestrator.artifacts.write_buffer.commit_together", fail)
        with pytest.raises(StorageError):
            driven.buffer.write()
    driven.end("c")
    driven.buffer.write()
    assert list(Store(driven.folder).statuses()) == ["c"]
