"""Selects rows by the norm of their loss gradient early in training (GraNd).

Rows are scored after the last epoch of the scoring networks, not at initialisation: that scores at initialisation are useful
was the result of an error, according to a secondary source (U, unverified).

Reference: Paul, Ganguli and Dziugaite 2021, Deep Learning on a Data Diet (arXiv:2107.07075)
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pruneyard.workloads.data.selection import CLASSIFIER_GRADIENTS, GRADIENTS, HardnessSelector, Pool

__all__ = ["GraNd"]


@dataclass(frozen=True, kw_only=True)
class GraNd(HardnessSelector):
    """Selects by the gradient norm, averaged over the scoring networks.

    layers: the gradient with respect to all parameters, as in the paper, which needs a backward pass per row; or to those of
        the classifier, which follows from a forward pass.
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
