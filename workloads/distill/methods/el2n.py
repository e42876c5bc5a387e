"""Real images by the length of (probabilities - label) early in training (EL2N).

Reference: Paul, Ganguli and Dziugaite 2021, Deep Learning on a Data Diet (arXiv:2107.07075)
"""

from dataclasses import dataclass

from pruneyard.workloads.data.selectors import el2n
from pruneyard.workloads.distill.selected import Selected

__all__ = ["EL2N"]


@dataclass(frozen=True, kw_only=True)
class EL2N(Selected, el2n.EL2N):
    """The rule is that of `pruneyard.workloads.data.selectors.el2n`."""
