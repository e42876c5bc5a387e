"""Running trials that do not report are named once, when they are silent for much longer than any trial before."""

import pytest

from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.progress.monitor import Monitor, TrialPlace
from pruneyard.orchestrator.ray_backend.watchdog import (
    MAX_NAMED,
    MIN_SILENCE_S,
    SILENCE_FACTOR,
    StragglerMonitor,
)


def monitor_of(*keys: str) -> Monitor:
    monitor = Monitor(total=len(keys), num_already_done=0)
    for key in keys:
        monitor.labels[key] = f"job {key}"
        monitor.time_left.expect(key, None)
        monitor.start(key)
    return monitor


def test_a_trial_that_hangs_is_named_with_its_node_and_once(caplog: pytest.LogCaptureFixture) -> None:
    monitor = monitor_of("a", "b")
    silence = StragglerMonitor(monitor)
    for step in range(5):
        now = 30.0 * step
        for key in ("a", "b"):
            monitor.set_place(key, TrialPlace(nodes=("1a2b3c4d",), gpu_bytes=None))
            monitor.record(Report(run_key=key, step=step, num_steps=90))
        silence.check(now)
    for step in range(5, 60):
        monitor.record(Report(run_key="a", step=step, num_steps=90))
        silence.check(30.0 * step)
    (said,) = caplog.messages
    assert "the longest silence before was 30 s" in said
    assert "b (job b) on node 1a2b3c4d: no report for 630 s" in said
    assert "job a" not in said


def test_long_epochs_are_no_surprise_once_one_has_passed(caplog: pytest.LogCaptureFixture) -> None:
    monitor = monitor_of("a")
    silence = StragglerMonitor(monitor)
    silence.check(0)
    epoch = 2 * MIN_SILENCE_S
    for step in range(1, 6):
        monitor.record(Report(run_key="a", step=step, num_steps=9))
        silence.check(step * epoch)
        silence.check((step + 0.9) * epoch)
    assert not caplog.messages
    silence.check(5 * epoch + SILENCE_FACTOR * epoch + 1)
    assert len(caplog.messages) == 1


def test_before_any_report_silence_is_reported_after_ten_minutes_for_running_trials(caplog: pytest.LogCaptureFixture) -> None:
    keys = [str(number) for number in range(MAX_NAMED + 2)]
    monitor = monitor_of(*keys, "gone")
    silence = StragglerMonitor(monitor)
    silence.check(0)
    monitor.running.pop("gone")
    silence.check(MIN_SILENCE_S - 1)
    assert not caplog.messages
    silence.check(MIN_SILENCE_S + 1)
    silence.check(MIN_SILENCE_S + 99)
    (said,) = caplog.messages
    assert "none has reported yet" in said
    assert said.endswith("and 2 more")
    assert "gone" not in said
