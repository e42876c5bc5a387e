"""GradNorm: L1 norm of the gradient of the cross-entropy with uniform targets in the last layer's weights.

The closed form is |h|_1 |p - 1/K|_1, which needs one forward pass; the bias is excluded and the softmax is over the classes.
Targets of 1 for every class, as in the released code, multiply every score by K.

Reference: Huang, Geng and Li 2021, On the Importance of Gradients for Detecting Distributional Shifts (arXiv:2110.00218)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import softmax

from pruneyard.workloads.calibrate.evidence import FEATURES, Evidence, Floats
from pruneyard.workloads.calibrate.score import Immediate

__all__ = ["GradNorm"]


@dataclass(frozen=True, kw_only=True)
class GradNorm(Immediate):
    """Score |h|_1 |p - 1/K|_1."""

    needs: ClassVar[frozenset[str]] = frozenset({FEATURES})

    def of(self, evidence: Evidence) -> Floats:
        from_uniform = np.abs(softmax(evidence.class_logits, axis=1) - 1 / evidence.num_classes).sum(axis=1)
        return np.asarray(np.abs(evidence.features).sum(axis=1, dtype=np.float64) * from_uniform)
