"""Ends a study on a cluster that cannot go on: its head is gone, or for too long no trial could be placed."""

import logging
import time
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from cluster.holdings import holdings
from cluster.pulse import Pulse
from orchestrator.job import Resources
from orchestrator.monitor import Monitor
from orchestrator.silence import Silence

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
WORD_AFTER_S = 30.0  # without a running trial; starting one takes less


class Abandoned(BaseException):
    """The study is left as it stands; the message says why. No `Exception`, since the scheduler would clean up on a cluster
    that is gone, and wait for its answers.
    """


class Standstill(tune.Callback):
    """Looks on in the scheduler's loop. While a trial runs nothing is ended, however long it says nothing: it is named."""

    def __init__(self, pulse: Pulse, resources: Resources, monitor: Monitor) -> None:
        self._pulse, self._resources, self._monitor = pulse, resources, monitor
        self._looked_at, self._silence = 0.0, Silence(monitor)
        self._since: float | None = None
        self._said = False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its callbacks, and nobody reads them

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            states = [trial.status for trial in trials]
            self._silence.look(now)
            self.check(running=states.count(TuneTrial.RUNNING), waiting=states.count(TuneTrial.PENDING))

    def check(self, *, running: int, waiting: int) -> None:
        """Raises `Abandoned`. running: trials that have a process; waiting: those that are to get one."""
        try:
            self._pulse.check()
        except ConnectionError as error:
            raise Abandoned(str(error)) from error
        if running or not waiting or self._pulse.silent_s:
            self._since, self._said = None, False
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        left = self._resources.place_within_s - (now - self._since)
        if left <= 0:
            raise Abandoned(self._words(now - self._since))
        if now - self._since >= WORD_AFTER_S and not self._said:
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
        return "\n".join([head, *(f"  {line}" for line in holdings())])
