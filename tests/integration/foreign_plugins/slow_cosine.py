"""A cosine schedule that sleeps at every step, so that a test can interrupt a training."""

import os
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from pruneyard.workloads.schedules.cosine import Cosine

__all__ = ["SlowCosine"]


@dataclass(frozen=True, kw_only=True)
class SlowCosine(Cosine):
    """Waits at each step for the seconds that the file `$STEP_DELAY_FILE` holds.

    The delay is not a field, so slow and fast trainings have the same numbers and the same run key.
    """

    def factor(self, step: int, num_steps: int) -> float:
        if "STEP_DELAY_FILE" in os.environ:
            Event().wait(float(Path(os.environ["STEP_DELAY_FILE"]).read_text()))  # `time.sleep` fails under libfaketime
        return super().factor(step, num_steps)
