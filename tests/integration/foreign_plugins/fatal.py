"""Ends its process once: the worst job of the many in one trial of the scheduler."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels
from pruneyard.workloads.calibrate.methods.temperature import Temperature

__all__ = ["Fatal"]


@dataclass(frozen=True, kw_only=True)
class Fatal(Temperature):
    """A temperature that is found by the second process that looks for it; for seed 2 alone."""

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> Fitted:
        mark = Path(os.environ["FATAL"])
        if seed == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._fit(logits_NC, labels_N, seed=seed)
