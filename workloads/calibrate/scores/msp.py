"""Maximum softmax probability (MSP), as its logarithm, which still separates confidences that round to 1.

The softmax is over all outputs, the maximum over the classes. For a network with an extra "unknown" output (MOON) this is the
score that its authors use.

Reference: Hendrycks and Gimpel 2017, A Baseline for Detecting Misclassified and Out-of-Distribution Examples (arXiv:1610.02136)
"""

from dataclasses import dataclass
from typing import ClassVar

from pruneyard.workloads.calibrate.evidence import LOGITS, Evidence, Floats
from pruneyard.workloads.calibrate.score import Immediate
from pruneyard.workloads.metrics.detection import confidence_scores

__all__ = ["MSP"]


@dataclass(frozen=True, kw_only=True)
class MSP(Immediate):
    """Score max_k log p_k."""

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})

    def of(self, evidence: Evidence) -> Floats:
        return confidence_scores(evidence.logits, num_extra=evidence.num_extra)
