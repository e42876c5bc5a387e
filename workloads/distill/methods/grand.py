"""Selects real images by the norm of their loss gradient early in training (GraNd).

Reference: Paul, Ganguli and Dziugaite 2021, Deep Learning on a Data Diet (arXiv:2107.07075)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import grand
from pruneyard.workloads.distill.selected import SelectionDistiller

__all__ = ["GraNd"]


@dataclass(frozen=True, kw_only=True)
class GraNd(SelectionDistiller, grand.GraNd):
    """Selects images as `pruneyard.workloads.data.selectors.grand` does."""
