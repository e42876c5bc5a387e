"""A cosine schedule that sleeps at every step, so that a test can interrupt a training."""

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from pruneyard.workloads.schedules.cosine import Cosine

__all__ = ["Patient"]


@dataclass(frozen=True, kw_only=True)
class Patient(Cosine):
    """The file `$PATIENCE` has the seconds that a step is to wait.

    They are no field: slow and fast trainings have the same numbers, and the same run key.
    """

    def factor(self, step: int, num_steps: int) -> float:
        if "PATIENCE" in os.environ:
            Event().wait(float(Path(os.environ["PATIENCE"]).read_text()))  # `time.sleep` fails under libfaketime
        return super().factor(step, num_steps)
