"""Prune before training and without data, by the synaptic flow through each weight, in many rounds (SynFlow).

Reference: Tanaka et al. 2020, Pruning neural networks without any data by iteratively conserving synaptic flow (arXiv:2006.05467)

All tensors of the network are taken in absolute value, in float64 (products over deep networks are large), and an image of
ones is passed through it in evaluation mode. With R the sum of its outputs the score is |w dR/dw|. Without norms and biases the
scores of a unit's inputs and outputs have the same sum, so that pruning in small rounds disconnects no layer. After round k of n
a share density^(k/n) of all weights is left, by one ranking. Decisions made here:
- Pruning happens at the first step, whose batch trains nothing, as with SNIP. That batch has changed running
  statistics, so their initial values are used: mean 0 and variance 1.
- Each layer keeps its best weight; published code may prune the 1x1 shortcuts of residual networks entirely.
- With `scope: layer` each layer is ranked separately and shrinks to the density that `distribution` gives it.
- A norm without running statistics (layer, group) removes the scale on which scores depend: choose batch norm or none.
Each round counts as a forward and a backward pass of one image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruneyard.workloads.masks.masks import check_finite, keep_largest_by_scope
from pruneyard.workloads.sparse.updater import DenseStart, in_module_order
from pruneyard.workloads.training.mask_updater import FunctionalNetwork, SparseState, UpdateContext

__all__ = ["SynFlow"]

INITIAL_STATISTICS = {"running_mean": 0.0, "running_var": 1.0}  # initial running statistics of batch norm
BACKWARD = 2  # forward passes that a backward pass counts as


@dataclass(frozen=True, kw_only=True)
class SynFlow(DenseStart):
    """Pruning at initialisation by synaptic flow."""

    replaces_step: ClassVar[bool] = True

    rounds: int = 100
    scope: Literal["layer", "global"] = "global"  # where scores are compared; global ignores `distribution`

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; it must be 1 or more")
        if self.scope not in ("layer", "global"):
            raise ValueError(f"scope is {self.scope!r}; it must be layer or global")

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns True at the first step only, and never at density 1."""
        return step == 0 and self.density < 1

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns the state pruned to the target density."""
        masks = dict(in_module_order(state.masks, context))
        for name in masks:
            check_finite(context.weights[name], name)
        sizes = {name: mask.numel() for name, mask in masks.items()}
        final = self.counts(context.weights)
        if self.scope == "global":
            sizes, final = {"": sum(sizes.values())}, {"": sum(final.values())}
        for k in range(1, self.rounds + 1):
            masks = keep_largest_by_scope(
                flow_scores(context.network, masks),
                masks,
                scope=self.scope,
                counts={
                    name: max(final[name], round(size * (final[name] / size) ** (k / self.rounds)))
                    for name, size in sizes.items()
                },
                generator=context.generator,
            )
        return SparseState(masks, state.tensors)


def flow_scores(network: FunctionalNetwork, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns |w dR/dw| of the masked weights, float64, by name and in their shape; 0 where the mask is False."""
    tensors = {name: _absolute(name, tensor) for name, tensor in network.weights.items()}
    weights = {name: (tensors[name] * mask).requires_grad_() for name, mask in masks.items()}
    any_weight = next(iter(weights.values()))
    ones = torch.ones((1, *network.image_shape), dtype=any_weight.dtype, device=any_weight.device)
    flow = network.logits({**tensors, **weights}, ones, training=False).sum()
    gradients = torch.autograd.grad(flow, list(weights.values()), materialize_grads=True)
    network.count(1 + BACKWARD, rows=1)
    return {
        name: (weight.detach() * gradient).abs()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def _absolute(name: str, tensor: Tensor) -> Tensor:
    """Returns absolute values in float64, or initial values for running statistics; integer tensors do not change."""
    if not tensor.is_floating_point():
        return tensor
    initial = INITIAL_STATISTICS.get(name.rpartition(".")[2])
    return tensor.double().abs() if initial is None else torch.full_like(tensor, initial, dtype=torch.float64)
