"""Drop the smallest weights, grow by momentum, and move weights to layers with large momentum (SNFS).

Reference: Dettmers and Zettlemoyer 2019, Sparse Networks from Scratch (arXiv:1907.04840)

Each layer drops its share; the dropped number is redistributed over layers in proportion to the mean |momentum| of their
active weights, at most 99% of a layer's free places; what exceeds them is shared equally among the other layers, as in the
authors' code. Momentum is an exponential mean of the
dense gradients, stored by the method, because masks keep that of the optimizer at zero outside. It needs the dense gradient
at every step and 32 bits per prunable weight. With `redistribute: false` each layer grows what it dropped, as in the RigL
authors' SNFS. The published interval is one epoch: the default of `every` is one of 50,000 images at batch size 128. The
optimizer also steps at an update; here after it, in published code before.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruneyard.workloads.masks.distributions import proportional_counts
from pruneyard.workloads.masks.masks import active_per_layer, check_finite, keep_largest
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.sparse.updater import RandomStart, in_module_order
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["SNFS"]

FILLED = 0.99  # share of a layer's free places that redistribution may fill


@dataclass(frozen=True, kw_only=True)
class SNFS(RandomStart):
    """Sparse momentum."""

    revision: ClassVar[int] = 2  # before, the excess of full layers was shared in proportion
    follows_gradient: ClassVar[bool] = True

    distribution: Literal["uniform", "er", "erk"] = "uniform"  # of the initial masks
    drop_fraction: float = 0.5  # share of a layer's active weights dropped by the first update, in [0, 1]
    momentum: float = 0.9  # decay of the exponential mean in a step, in [0, 1)
    redistribute: bool = True
    schedule: UpdateSchedule = field(default_factory=lambda: UpdateSchedule(every=390, until=1.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_fraction <= 1:
            raise ValueError(f"drop_fraction is {self.drop_fraction}; it must lie in [0, 1]")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns random masks and zero momentum."""
        masks = super().start(weights, generator=generator).masks
        return SparseState(masks, {f"momentum/{name}": torch.zeros_like(weights[name]) for name in masks})

    def observe_gradients(self, state: SparseState, gradients: Mapping[str, Tensor]) -> SparseState:
        """Returns the state with the gradients added to the mean, those of inactive weights included."""
        means = {name: state.tensors[f"momentum/{name}"] for name in state.masks}
        return SparseState(
            state.masks,
            {f"momentum/{n}": torch.lerp(gradients[n], mean, self.momentum) for n, mean in means.items()},
        )

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns whether the schedule has an update here; False if nothing can move."""
        return self.density < 1 and self.drop_fraction > 0 and self.schedule.is_due(step, num_steps=num_steps)

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns masks after dropping in every layer, redistributing the dropped number, and growing."""
        fraction = self.drop_fraction * self.schedule.factor(context.step, num_steps=context.num_steps)
        masks = dict(in_module_order(state.masks, context))
        sizes = {name: state.tensors[f"momentum/{name}"].abs() for name in masks}
        for name, size in sizes.items():
            check_finite(size, name)
        num_active = active_per_layer(masks)
        dropped = {name: min(math.floor(fraction * count), count - 1) for name, count in num_active.items()}
        kept = {
            name: keep_largest(
                context.weights[name].abs(),
                mask,
                count=num_active[name] - dropped[name],
                generator=context.generator,
                layer=name,
            )
            for name, mask in masks.items()
        }
        grown = self.redistributed_counts(dropped, masks, sizes) if self.redistribute else dropped
        return SparseState(
            {
                name: mask
                | keep_largest(sizes[name], ~mask, count=grown[name], generator=context.generator, layer=name)
                for name, mask in kept.items()
            },
            state.tensors,
        )

    def redistributed_counts(
        self, dropped: Mapping[str, int], masks: Mapping[str, Tensor], sizes: Mapping[str, Tensor]
    ) -> dict[str, int]:
        """Returns the number of weights that each layer grows; their sum is the number of dropped ones."""
        shares = {name: float(sizes[name][mask].double().mean()) for name, mask in masks.items()}
        free = {n: int(torch.count_nonzero(~mask)) + dropped[n] for n, mask in masks.items()}
        capacities = {name: math.floor(FILLED * count) for name, count in free.items()}
        total = sum(dropped.values())
        if sum(capacities.values()) < total:
            capacities = free
        return proportional_counts(total, shares=shares, capacities=capacities)
