"""Cross-entropy that takes its time, so that a test can meet a training in its middle."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from workloads.objectives.cross_entropy import CrossEntropy
from workloads.slots import Question, Tensors

__all__ = ["Patient"]


@dataclass(frozen=True, kw_only=True)
class Patient(CrossEntropy):
    """The file `$PATIENCE` has the seconds that a step is to wait.

    They are no field: slow and fast trainings have the same numbers, and the same run key.
    """

    def loss(self, question: Question) -> tuple[Tensor, Tensors]:
        if "PATIENCE" in os.environ:
            time.sleep(float(Path(os.environ["PATIENCE"]).read_text()))
        return super().loss(question)
