"""Selects real images one by one such that their mean feature vector follows that of their class (herding).

Reference: Welling 2009, Herding dynamical weights to learn (ICML), as used by Rebuffi et al. 2017, iCaRL (arXiv:1611.07725)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import herding
from pruneyard.workloads.distill.selected import SelectionDistiller

__all__ = ["Herding"]


@dataclass(frozen=True, kw_only=True)
class Herding(SelectionDistiller, herding.Herding):
    """Selects images as `pruneyard.workloads.data.selectors.herding` does."""
