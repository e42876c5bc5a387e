"""No calibration: the softmax probabilities of the trained network.

Reference: Kipf and Welling, Semi-supervised classification with graph convolutional networks (ICLR 2017)
"""

from dataclasses import dataclass

from pruneyard.workloads.metrics.classification import Floats, Labels
from pruneyard.workloads.nodes.node_method import Readout, Untuned, log_softmax

__all__ = ["PlainNodes"]


@dataclass(frozen=True, kw_only=True)
class PlainNodes(Untuned):
    @property
    def uses_val(self) -> bool:
        """Always false."""
        return False

    def readout(self, logits: Floats, labels: Labels, *, seed: int) -> Readout:
        """Returns the softmax readout."""
        return Readout(log_probabilities=log_softmax)
