"""Train dense, prune once to the target density, and continue training.

Reference: Lee et al. 2021, Layer-adaptive Sparsity for the Magnitude-based Pruning (LAMP, arXiv:2010.07611)

`ranking` says what is compared: magnitudes over all layers (`global`), magnitudes within each layer at the density
that `distribution` gives it (`layer`), or LAMP's scores over all layers (`lamp`): w^2 over the sum of squares of the
layer's weights that are at least as large. The largest weight of each layer scores 1, so no layer
vanishes; with `global` each layer also keeps its best weight, which published code does not guarantee.
LAMP's authors prune in twenty rounds; here it is one. The optimizer also steps at the update. Under a `pattern` cells are ranked
by the sums of their magnitudes; LAMP has no scores of cells.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruneyard.workloads.fields import renamed
from pruneyard.workloads.sparse.pruning import ValuePruning
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["OneShot"]


@dataclass(frozen=True, kw_only=True)
class OneShot(ValuePruning):
    """One-shot magnitude pruning."""

    gives_indices: ClassVar[bool] = True

    # share of the budget that is trained dense, at most until the last step; 0 prunes at the start
    prune_at: float = field(default=0.5, metadata=renamed("at"))
    ranking: Literal["global", "layer", "lamp"] = "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.prune_at <= 1:
            raise ValueError(f"prune_at is {self.prune_at}; it must lie in [0, 1], a share of the budget")
        if self.ranking not in ("global", "layer", "lamp"):
            raise ValueError(f"ranking is {self.ranking!r}; it must be global, layer or lamp")
        if self.is_patterned and (self.pattern.is_balanced or self.ranking == "lamp") and self.ranking != "layer":
            raise ValueError(f"ranking is {self.ranking}; it must be layer with pattern {self.pattern}")

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns True at one step, and never at density 1."""
        return self.density < 1 and step == min(round(self.prune_at * num_steps), num_steps - 1)

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns the state pruned to the target density."""
        is_lamp = self.ranking == "lamp"
        return self.pruned(
            state,
            context,
            counts=self.target_counts(state, context),
            scope="layer" if self.ranking == "layer" else "global",
            score=lamp_scores if is_lamp else torch.abs,
            is_elementwise=not is_lamp,
        )


def lamp_scores(weight: Tensor) -> Tensor:
    """Returns each square over the sum of all squares at least as large, float64 in [0, 1]; ties score the same.

    Reference: Lee et al. 2021 (arXiv:2010.07611).
    """
    squares = weight.double().square()
    ascending = squares.flatten().sort().values
    sums_from_here = ascending.flip(0).cumsum(0).flip(0)
    first_equal = torch.searchsorted(ascending, squares.contiguous())
    return squares / sums_from_here[first_equal.clamp(max=len(ascending) - 1)].clamp(
        min=torch.finfo(torch.float64).tiny
    )
