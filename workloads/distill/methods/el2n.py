"""Selects real images by the L2 norm of (probabilities - label) early in training (EL2N).

Reference: Paul, Ganguli and Dziugaite 2021, Deep Learning on a Data Diet (arXiv:2107.07075)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import el2n
from pruneyard.workloads.distill.selected import SelectionDistiller

__all__ = ["EL2N"]


@dataclass(frozen=True, kw_only=True)
class EL2N(SelectionDistiller, el2n.EL2N):
    """Selects images as `pruneyard.workloads.data.selectors.el2n` does."""
