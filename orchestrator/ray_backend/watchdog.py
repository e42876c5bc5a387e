"""Ends a study on a cluster that cannot go on: its head is gone, or for too long no trial could be placed."""

import logging
import time
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from pruneyard.cluster.holdings import describe_usage
from pruneyard.cluster.pulse import HeadMonitor
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.spec.job import Resources

logger = logging.getLogger(__name__)



MIN_SILENCE_S = 600.0  # below that nobody is surprised


SILENCE_FACTOR = 5.0  # as long as the longest silence that a report ended


MAX_NAMED = 3


class StragglerMonitor:
    """Looks at what a monitor has heard. Each silence is said once; an epoch of hours is one, so it ends nothing."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._heard: dict[str, tuple[Report, float]] = {}
        self._said: set[str] = set()
        self._longest = 0.0

    def look(self, now: float) -> None:
        """At the time `now` in seconds, which never falls."""
        running = dict(self._monitor.running)
        self._heard = {key: heard for key, heard in self._heard.items() if key in running}
        for key, report in running.items():
            before, since = self._heard.get(key, (report, now))
            if before is not report:
                self._longest = max(self._longest, now - since)
                self._said.discard(key)
            self._heard[key] = (report, since if before is report else now)
        quiet = [key for key in running if key not in self._said and self._is_quiet(key, now)]
        if quiet:
            self._said.update(quiet)
            logger.warning("%s", self._words(quiet, now))

    def _is_quiet(self, key: str, now: float) -> bool:
        return now - self._heard[key][1] > max(MIN_SILENCE_S, SILENCE_FACTOR * self._longest)

    def _words(self, quiet: list[str], now: float) -> str:
        named = [self._named(key, now) for key in quiet[:MAX_NAMED]]
        more = [f"and {len(quiet) - MAX_NAMED} more"] if len(quiet) > MAX_NAMED else []
        before = f"the longest silence before was {self._longest:.0f} s" if self._longest else "none has reported yet"
        advice = "if they hang, end their processes on these nodes: they go on from their checkpoints"
        return "\n".join([f"running trials are silent, {before}; {advice}", *(f"  {line}" for line in [*named, *more])])

    def _named(self, key: str, now: float) -> str:
        place = self._monitor.places.get(key)
        where = f" on node {', '.join(place.nodes)}" if place and place.nodes else ""
        return f"{key} ({self._monitor.labels.get(key, '')}){where}: nothing for {now - self._heard[key][1]:.0f} s"


CHECK_EVERY_S = 1.0


WARN_AFTER_S = 30.0  # without a running trial; starting one takes less


class ClusterLost(BaseException):
    """The study is left as it stands; the message says why. No `Exception`, since the scheduler would clean up on a cluster
    that is gone, and wait for its answers.
    """


class StallDetector(tune.Callback):
    """Looks on in the scheduler's loop. While a trial runs nothing is ended, however long it says nothing: it is named."""

    def __init__(self, pulse: HeadMonitor, resources: Resources, monitor: Monitor) -> None:
        self._pulse, self._resources, self._monitor = pulse, resources, monitor
        self._looked_at, self._silence = 0.0, StragglerMonitor(monitor)
        self._since: float | None = None
        self._said = False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its callbacks, and nobody reads them

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        now = time.monotonic()
        if now - self._looked_at >= CHECK_EVERY_S:
            self._looked_at = now
            states = [trial.status for trial in trials]
            self._silence.look(now)
            self.check(running=states.count(TuneTrial.RUNNING), waiting=states.count(TuneTrial.PENDING))

    def check(self, *, running: int, waiting: int) -> None:
        """Raises `ClusterLost`. running: trials that have a process; waiting: those that are to get one."""
        try:
            self._pulse.check()
        except ConnectionError as error:
            raise ClusterLost(str(error)) from error
        if running or not waiting or self._pulse.silent_s:
            self._since, self._said = None, False
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        left = self._resources.place_within_s - (now - self._since)
        if left <= 0:
            raise ClusterLost(self._words(now - self._since))
        if now - self._since >= WARN_AFTER_S and not self._said:
            self._said = True
            logger.warning(
                "%s\n  waiting %.0f s more (resources.place_within_s)", self._words(now - self._since), left
            )

    def _words(self, waited: float) -> str:
        wanted = f"{self._resources.cpus} CPUs and {self._resources.gpus:g} GPUs"
        if self._resources.workers > 1:
            wanted = f"{self._resources.workers} workers with {wanted} each"
        waiting = f"{self._monitor.waiting} jobs wait, each for {wanted}"
        head = f"nothing runs, and no trial has started for {waited:.0f} s: {waiting}"
        return "\n".join([head, *(f"  {line}" for line in describe_usage())])
