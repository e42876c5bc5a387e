"""Warns of trials that hang, and ends a study whose cluster lost its head or could not place any trial for too long."""

import logging
import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from pruneyard.cluster.groups import any_trial_placed
from pruneyard.cluster.holdings import describe_usage
from pruneyard.cluster.pulse import HeadMonitor
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.spec.job import Resources

logger = logging.getLogger(__name__)

MIN_SILENCE_S = 600.0  # a shorter silence is never reported
SILENCE_FACTOR = 5.0  # a silence is reported beyond this factor times the longest one that ended with a report
MAX_NAMED = 3
CHECK_EVERY_S = 1.0
WARN_AFTER_S = 30.0  # without a running trial and without one that starts
START_WITHIN_S = 600.0  # of a trial that holds its resources: a busy machine takes minutes to start its process


class StragglerMonitor:
    """Logs a warning for each trial that has not reported for long, once per silence.

    It ends no trial, since an epoch may take hours.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._last_reports: dict[str, tuple[Report, float]] = {}  # with the time in s since when it is the newest
        self._warned: set[str] = set()
        self._longest = 0.0

    def check(self, now: float) -> None:
        """Checks all running trials at the time `now`, in seconds of a monotonic clock."""
        running = dict(self._monitor.running)
        self._last_reports = {key: last for key, last in self._last_reports.items() if key in running}
        for key, report in running.items():
            before, since = self._last_reports.get(key, (report, now))
            # By identity: two evaluations may report equal values.
            if before is not report:
                self._longest = max(self._longest, now - since)
                self._warned.discard(key)
            self._last_reports[key] = (report, since if before is report else now)
        silent = [key for key in running if key not in self._warned and self._is_silent(key, now)]
        if silent:
            self._warned.update(silent)
            logger.warning("%s", self._message(silent, now))

    def _is_silent(self, key: str, now: float) -> bool:
        return now - self._last_reports[key][1] > max(MIN_SILENCE_S, SILENCE_FACTOR * self._longest)

    def _message(self, silent: list[str], now: float) -> str:
        named = [self._describe(key, now) for key in silent[:MAX_NAMED]]
        more = [f"and {len(silent) - MAX_NAMED} more"] if len(silent) > MAX_NAMED else []
        before = f"the longest silence before was {self._longest:.0f} s" if self._longest else "none has reported yet"
        advice = "if they hang, end their processes on these nodes: they resume from their checkpoints"
        return "\n".join([f"running trials are silent, {before}; {advice}", *(f"  {line}" for line in [*named, *more])])

    def _describe(self, key: str, now: float) -> str:
        place = self._monitor.places.get(key)
        where = f" on node {', '.join(place.nodes)}" if place and place.nodes else ""
        return f"{key} ({self._monitor.labels.get(key, '')}){where}: no report for {now - self._last_reports[key][1]:.0f} s"


class ClusterLost(BaseException):
    """Ends the study as it stands; the message says why.

    It is no `Exception`: Tune would catch it, clean up on a cluster that is gone, and wait for answers that never come.
    """


class StallDetector(tune.Callback):
    """Raises `ClusterLost` in Tune's loop if the head is gone, or if trials wait and none runs.

    It never ends a study while a trial runs; a trial that hangs is named in a warning.
    """

    def __init__(self, head: HeadMonitor, resources: Callable[[], Resources], monitor: Monitor) -> None:
        """resources: returns those that a waiting trial requests."""
        self._head, self._resources, self._monitor = head, resources, monitor
        self._checked_at, self._stragglers = 0.0, StragglerMonitor(monitor)
        self._idle_since: float | None = None  # when the last trial ended or none had started
        self._since: float | None = None  # since when no trial has held resources either, as far as it was asked
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks into a file that nobody reads

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        now = time.monotonic()
        if now - self._checked_at >= CHECK_EVERY_S:
            self._checked_at = now
            states = [trial.status for trial in trials]
            self._stragglers.check(now)
            self.check(running=states.count(TuneTrial.RUNNING), waiting=states.count(TuneTrial.PENDING))

    def check(self, *, running: int, waiting: int) -> None:
        """Raises `ClusterLost` if the study cannot continue. running, waiting: trials with a process, and without one yet."""
        try:
            self._head.check()
        except ConnectionError as error:
            raise ClusterLost(str(error)) from error
        # While the head is silent, these states are old; `HeadMonitor` decides how long it may be silent.
        if running or not waiting or self._head.silent_s:
            self._idle_since = self._since = None
            self._warned = False
            return
        now = time.monotonic()
        self._idle_since = now if self._idle_since is None else self._idle_since
        self._since = now if self._since is None else self._since
        waited, limit = now - self._since, self._resources().place_within_s
        if waited < limit and (waited < WARN_AFTER_S or self._warned):
            return
        # A trial that holds its resources waits for none of them, however slowly it starts.
        if now - self._idle_since < START_WITHIN_S and any_trial_placed():
            self._since = now
            return
        if waited >= limit:
            raise ClusterLost(self._message(waited))
        self._warned = True
        logger.warning("%s\n  waiting %.0f s more (resources.place_within_s)", self._message(waited), limit - waited)

    def _message(self, waited: float) -> str:
        resources = self._resources()
        requested = f"{resources.cpus} CPUs and {resources.gpus:g} GPUs"
        if resources.workers > 1:
            requested = f"{resources.workers} workers with {requested} each"
        waiting = f"{self._monitor.waiting} jobs wait, each for {requested}"
        head = f"nothing runs, and no trial has started for {waited:.0f} s: {waiting}"
        return "\n".join([head, *(f"  {line}" for line in describe_usage())])
