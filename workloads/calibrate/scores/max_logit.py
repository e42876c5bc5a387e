"""Largest class logit. Its scale depends on the network, so scores of two networks are not comparable.

Reference: Hendrycks et al. 2022, Scaling Out-of-Distribution Detection for Real-World Settings (arXiv:1911.11132)
"""

from dataclasses import dataclass
from typing import ClassVar

from pruneyard.workloads.calibrate.evidence import LOGITS, Evidence, Floats
from pruneyard.workloads.calibrate.score import Immediate

__all__ = ["MaxLogit"]


@dataclass(frozen=True, kw_only=True)
class MaxLogit(Immediate):
    """Score max_k z_k."""

    needs: ClassVar[frozenset[str]] = frozenset({LOGITS})

    def of(self, evidence: Evidence) -> Floats:
        largest: Floats = evidence.class_logits.max(axis=1)
        return largest
