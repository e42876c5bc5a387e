"""Selects real images of all degrees of hardness, without the hardest (CCS, coverage-centric coreset selection).

Reference: Zheng et al. 2023, Coverage-centric Coreset Selection for High Pruning Rates (arXiv:2210.15809)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import ccs
from pruneyard.workloads.distill.selected import SelectionDistiller

__all__ = ["CCS"]


@dataclass(frozen=True, kw_only=True)
class CCS(SelectionDistiller, ccs.CCS):
    """Selects images as `pruneyard.workloads.data.selectors.ccs` does."""
