"""Fits a post-hoc calibrator on validation nodes; by default one temperature for all nodes.

Reference: Guo et al., On calibration of modern neural networks (ICML 2017)
"""

from dataclasses import dataclass
from typing import Annotated

from pruneyard.workloads.calibrate.calibrator import Calibrator
from pruneyard.workloads.calibrate.methods.temperature import Temperature
from pruneyard.workloads.metrics.classification import Floats, Labels
from pruneyard.workloads.nodes.node_method import Readout, Untuned
from pruneyard.workloads.plugins import Plugin

__all__ = ["Recalibrated"]


@dataclass(frozen=True, kw_only=True)
class Recalibrated(Untuned):
    calibrator: Annotated[Calibrator, Plugin("calibrate.methods")] = Temperature()

    @property
    def uses_val(self) -> bool:
        """Always true."""
        return True

    def readout(self, logits: Floats, labels: Labels, *, seed: int) -> Readout:
        """Returns the readout of the fitted calibrator."""
        fitted = self.calibrator.fit(logits, labels, seed=seed)
        return Readout(
            log_probabilities=fitted.log_probabilities, numbers=fitted.numbers, tensors=fitted.tensors
        )
