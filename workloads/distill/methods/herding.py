"""Real images whose mean of features follows the mean of their class, taken one by one (herding).

Reference: Welling 2009, Herding dynamical weights to learn (ICML), as used by Rebuffi et al. 2017, iCaRL (arXiv:1611.07725)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import herding
from pruneyard.workloads.distill.selected import Selected

__all__ = ["Herding"]


@dataclass(frozen=True, kw_only=True)
class Herding(Selected, herding.Herding):
    """The rule is that of `pruneyard.workloads.data.selectors.herding`."""
