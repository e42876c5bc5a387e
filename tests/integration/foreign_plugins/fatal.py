"""Kills its own process once, as one of the many jobs of a trial."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels
from pruneyard.workloads.calibrate.methods.temperature import Temperature

__all__ = ["Fatal"]


@dataclass(frozen=True, kw_only=True)
class Fatal(Temperature):
    """Kills the first process that fits it with seed 2; fits a temperature otherwise."""

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> Fitted:
        killed = Path(os.environ["KILLED_FILE"])
        if seed == 2 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._fit(logits_NC, labels_N, seed=seed)
