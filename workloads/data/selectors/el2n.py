"""Selects rows by the L2 norm of (probabilities - label) early in training (EL2N).

Reference: Paul, Ganguli and Dziugaite 2021, Deep Learning on a Data Diet (arXiv:2107.07075)
"""

from dataclasses import dataclass

from torch import Tensor

from pruneyard.workloads.data.selection import HardnessSelector, Pool, error_norms

__all__ = ["EL2N"]


@dataclass(frozen=True, kw_only=True)
class EL2N(HardnessSelector):
    """Selects by EL2N after the last epoch of the scoring networks, averaged over them; the paper uses ten networks or more."""

    def hardness(self, pool: Pool) -> Tensor:
        return error_norms(pool)
