"""Rows by the length of their loss gradient early in training (GraNd).

Scored after the last epoch of the scoring networks: that scores at initialisation are of use rested on a fault, so [U] says the
reference at hand.

Reference: Paul, Ganguli and Dziugaite 2021, Deep Learning on a Data Diet (arXiv:2107.07075)
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pruneyard.workloads.data.selection import CLASSIFIER_GRADIENTS, GRADIENTS, ByHardness, Pool

__all__ = ["GraNd"]


@dataclass(frozen=True, kw_only=True)
class GraNd(ByHardness):
    """Averaged over the scoring networks.

    layers: the gradient by all parameters, as in the paper, which costs a gradient per row; or by those of the last layer,
        which follows from a forward pass.
    """

    layers: Literal["all", "classifier"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers not in ("all", "classifier"):
            raise ValueError(f"layers is {self.layers!r}; it must be all or classifier")

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({GRADIENTS if self.layers == "all" else CLASSIFIER_GRADIENTS})

    def hardness(self, pool: Pool) -> Tensor:
        return pool.gradient_norms.mean(0)
