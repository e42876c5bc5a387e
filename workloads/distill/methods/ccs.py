"""Real images spread over all degrees of hardness, the hardest left out (CCS, coverage-centric).

Reference: Zheng et al. 2023, Coverage-centric Coreset Selection for High Pruning Rates (arXiv:2210.15809)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import ccs
from pruneyard.workloads.distill.selected import Selected

__all__ = ["CCS"]


@dataclass(frozen=True, kw_only=True)
class CCS(Selected, ccs.CCS):
    """The rule is that of `pruneyard.workloads.data.selectors.ccs`."""
