"""A study is given up only while no trial runs; a long epoch does not trigger the watchdog."""

import time

from pruneyard.cluster.pulse import HeadMonitor
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.ray_backend.watchdog import StallDetector
from pruneyard.orchestrator.spec.job import Resources

MONITOR = Monitor(total=5, num_already_done=0)


def test_a_trial_that_runs_is_never_doubted_however_many_wait() -> None:
    watchdog = StallDetector(HeadMonitor("127.0.0.1:1"), lambda: Resources(place_within_s=0.05), MONITOR)
    for _ in range(3):
        watchdog.check(running=1, waiting=5)
        time.sleep(0.1)


def test_the_wait_restarts_after_each_trial_that_ran() -> None:
    watchdog = StallDetector(HeadMonitor("127.0.0.1:1"), lambda: Resources(place_within_s=0.3), MONITOR)
    for _ in range(4):
        watchdog.check(running=0, waiting=5)
        time.sleep(0.1)
        watchdog.check(running=1, waiting=4)


def test_a_study_in_which_nothing_waits_has_no_deadline() -> None:
    watchdog = StallDetector(HeadMonitor("127.0.0.1:1"), lambda: Resources(place_within_s=0.05), MONITOR)
    for _ in range(3):
        watchdog.check(running=0, waiting=0)
        time.sleep(0.1)
