"""Cross-entropy that takes its time, so that a test can meet a training in its middle."""

import os
import time
from dataclasses import dataclass

from torch import Tensor

from workloads.objectives.cross_entropy import CrossEntropy
from workloads.slots import Network

__all__ = ["Patient"]


@dataclass(frozen=True, kw_only=True)
class Patient(CrossEntropy):
    """`$PATIENCE_S` is no field: slow and fast trainings have the same numbers, and the same run key."""

    def loss(self, network: Network, images: Tensor, labels: Tensor) -> Tensor:
        time.sleep(float(os.environ.get("PATIENCE_S", "0")))
        return super().loss(network, images, labels)
