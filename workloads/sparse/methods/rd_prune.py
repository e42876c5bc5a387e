"""Prune once by magnitude, with the layer densities that distort the network's output least in sum.

Reference: Xu et al. 2023, Efficient Joint Optimization of Layer-Adaptive Weight Pruning (arXiv:2308.10438)

For every layer a curve is measured: the mean squared difference of the logits when only this layer is pruned, by magnitude, to
each of some densities. The distortions of layers add up approximately, which is the observation of the paper, so dynamic
programming finds the numbers of weights with the least sum for the given total.
Written from the abstract and the authors' code. Decisions made here, unverified where the abstract leaves them open:
- The curves have `levels` points of density (i / levels)^2, which are dense where networks are sparse, and one weight as the
  lowest point; between points they are linear. Logits are those in evaluation mode, without augmentation.
- The rows are `samples_per_class` random training rows of each class.
- A layer keeps at least one weight, and the total is exact; the authors' code stays below it by the rounding of its densities.
- It is one round, at the share `prune_at` of the budget; the optimizer also steps at the update, as with `one_shot`. The field
  `distribution` is not used.
The work is counted as a dense forward pass of the rows for every point.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruneyard.workloads.fields import renamed
from pruneyard.workloads.masks.masks import check_finite, keep_largest
from pruneyard.workloads.masks.rate_distortion import DistortionCurve, allocate
from pruneyard.workloads.sparse.updater import DenseStart, in_module_order
from pruneyard.workloads.training.mask_updater import FunctionalNetwork, SparseState, UpdateContext

__all__ = ["RDPrune"]


@dataclass(frozen=True, kw_only=True)
class RDPrune(DenseStart):
    """One-shot magnitude pruning with layer densities by rate-distortion optimisation."""

    # share of the budget that is trained dense, at most until the last step; 0 prunes at the start; renamed as that of one_shot
    prune_at: float = field(default=0.5, metadata=renamed("at"))
    levels: int = 20  # measured densities of every layer
    samples_per_class: int = 10  # rows that the distortion is measured on

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.prune_at <= 1:
            raise ValueError(f"prune_at is {self.prune_at}; it must lie in [0, 1], a share of the budget")
        for name in ("levels", "samples_per_class"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns True at one step, and never at density 1."""
        return self.density < 1 and step == min(round(self.prune_at * num_steps), num_steps - 1)

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns the state pruned to the target density."""
        masks = dict(in_module_order(state.masks, context))
        for name in masks:
            check_finite(context.weights[name], name)
        orders = {name: Ranking(name, context.weights[name], context.generator) for name in masks}
        total = sum(self.counts(context.weights).values())
        counts = allocate(self.curves(orders, context), total)
        return SparseState({name: order.mask(counts[name]) for name, order in orders.items()}, state.tensors)

    def curves(self, orders: Mapping[str, "Ranking"], context: UpdateContext) -> dict[str, DistortionCurve]:
        """Returns the distortion of the logits for each layer pruned alone, at its points."""
        images, _ = context.network.rows(self.samples_per_class, context.generator)
        original = logits_at(context.network, {}, images)
        curves = {}
        for name, order in orders.items():
            size = order.weight.numel()
            shares = [(level / self.levels) ** 2 for level in range(1, self.levels)]
            kept = sorted({1, *(max(1, round(share * size)) for share in shares)} - {size})
            pruned = [logits_at(context.network, {name: order.weight * order.mask(count)}, images) for count in kept]
            errors = [float((logits - original).square().mean(dtype=torch.float64)) for logits in pruned]
            curves[name] = DistortionCurve((*kept, size), (*errors, 0.0))
        return curves


@dataclass(frozen=True)
class Ranking:
    """The masks of the largest weights of a layer."""

    name: str
    weight: Tensor
    generator: torch.Generator

    def mask(self, count: int) -> Tensor:
        """Returns the mask of the `count` largest weights in magnitude."""
        everywhere = torch.ones(self.weight.shape, dtype=torch.bool, device=self.weight.device)
        return keep_largest(self.weight.abs(), everywhere, count=count, generator=self.generator, layer=self.name)


@torch.no_grad()
def logits_at(network: FunctionalNetwork, replaced: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Returns the logits (N, K) in evaluation mode with some weights replaced, and counts the forward pass."""
    network.count(1, rows=len(images))
    return network.logits({**network.weights, **replaced}, images, training=False)
