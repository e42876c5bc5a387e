"""Frees, in the scheduler's loop, what ranks had reserved whose trial is gone."""

import time
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from cluster.groups import free_abandoned
from cluster.pulse import Pulse

SWEEP_S = 1.0


class Sweeping(tune.Callback):
    """Once a second, while the cluster answers."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse, self._swept_at = pulse, time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its callbacks, and nobody reads them

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        if time.monotonic() - self._swept_at >= SWEEP_S and not self._pulse.silent_s:
            self._swept_at = time.monotonic()
            free_abandoned()
