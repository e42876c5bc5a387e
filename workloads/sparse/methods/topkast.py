"""Compute with the largest weights, train a larger set, and store the values of the others (Top-KAST).

Reference: Jayakumar et al. 2021, Top-KAST: Top-K Always Sparse Training (arXiv:2106.03517)

The network computes with set A, the largest weights in magnitude; gradients are taken there and kept for a larger set B, the
next largest up to density + margin. The values of weights outside B are stored outside the network, and ranked with the others
every `every` steps. An L2 penalty pulls weights to zero so that others can overtake them: `penalty` on A,
penalty / density on the rest of B, in addition to the optimizer's weight decay.
Written without access to the text of the paper. Unverified decisions made here:
- The scale of the penalty and its division by the density [U], and the values of margin, penalty and every [U].
- Sets are taken within layers, by the densities that `distribution` gives them for A and for B, or over all (`scope: global`).
- Sets are chosen before the optimizer's step, which is also taken. Weights that leave B lose their optimizer state.
- At density 1 it is dense training, without the penalty.
The masks of the finished network are A, at the target density exactly.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruneyard.workloads.fields import renamed
from pruneyard.workloads.masks.masks import full_masks, keep_largest_by_scope
from pruneyard.workloads.sparse.updater import LayerDensities, StaticMask
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["TopKAST"]


@dataclass(frozen=True, kw_only=True)
class TopKAST(StaticMask, LayerDensities):
    """Top-k always sparse training."""

    stays_masked: ClassVar[bool] = True

    margin: float = 0.3  # share of the weights that is trained in addition to `density`
    every: int = 100  # steps between two choices of the sets
    # Factor of the penalty: it adds this times the weight to the gradient; 0: none.
    penalty: float = field(default=1e-4, metadata=renamed("strength"))
    scope: Literal["layer", "global"] = (
        "layer"  # where magnitudes are compared; global ignores `distribution`
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin is {self.margin}; it must lie in [0, 1]")
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it must be at least 1 step")
        if not 0 <= self.penalty < math.inf:
            raise ValueError(f"penalty is {self.penalty}; it must be a finite number of at least 0")
        if self.scope not in ("layer", "global"):
            raise ValueError(f"scope is {self.scope!r}; it must be layer or global")

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns both sets, chosen by the initial weights."""
        return self.choose_masks(weights, generator)

    def extra_decay(self, state: SparseState) -> Mapping[str, Tensor]:
        """Returns the factor of the penalty for each weight."""
        if self.density == 1 or self.penalty == 0:
            return {}
        return {
            name: self.penalty * (used + (state.masks[name] & ~used) / self.density)
            for name, used in state.forward.items()
        }

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns True every `every` steps, and never at density 1."""
        return self.density < 1 and step > 0 and step % self.every == 0

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns both sets, chosen anew by the values in the network and the stored ones."""
        values = {
            name: torch.where(mask, context.weights[name], state.tensors[f"stored/{name}"])
            for name, mask in state.masks.items()
        }
        after = self.choose_masks({**context.weights, **values}, context.generator)
        entered = {name: mask & ~state.masks[name] for name, mask in after.masks.items()}
        return replace(after, revived={name: values[name] * mask for name, mask in entered.items()})

    def choose_masks(self, full: Mapping[str, Tensor], generator: torch.Generator) -> SparseState:
        """Returns the sets by the magnitudes of all weights in module order, and stores the values outside B."""
        used_counts = self.counts(full)
        trained_counts = replace(self, density=min(1.0, self.density + self.margin)).counts(full)
        magnitudes = {name: full[name].abs() for name in used_counts}
        trained = keep_largest_by_scope(
            magnitudes,
            full_masks(full, used_counts),
            scope=self.scope,
            counts={name: max(count, used_counts[name]) for name, count in trained_counts.items()},
            generator=generator,
        )
        used = keep_largest_by_scope(
            magnitudes, trained, scope=self.scope, counts=used_counts, generator=generator
        )
        stored = {f"stored/{name}": full[name] * ~mask for name, mask in trained.items()}
        return SparseState(trained, stored, forward=used)
