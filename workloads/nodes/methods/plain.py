"""Nothing: the network as trained, its softmax as probabilities.

Reference: Kipf and Welling, Semi-supervised classification with graph convolutional networks (ICLR 2017)
"""

from dataclasses import dataclass

from pruneyard.workloads.metrics.classification import Floats, Labels
from pruneyard.workloads.nodes.node_method import Readout, Untuned, as_they_are

__all__ = ["PlainNodes"]


@dataclass(frozen=True, kw_only=True)
class PlainNodes(Untuned):
    @property
    def uses_val(self) -> bool:
        """No."""
        return False

    def readout(self, logits: Floats, labels: Labels, *, seed: int) -> Readout:
        """Softmax."""
        return Readout(log_probabilities=as_they_are)
