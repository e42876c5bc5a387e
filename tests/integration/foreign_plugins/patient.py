"""A cosine that takes its time at every step, so that a test can meet a training in its middle."""

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
