"""Prune once before training, where that reduces the norm of the gradient least (GraSP).

Reference: Wang et al. 2020, Picking Winning Tickets Before Training by Preserving Gradient Flow (arXiv:2002.07376)

The score is -w (H g), with gradient g and Hessian H of the loss: to first order removing w changes |g|^2 by twice that. The
weights with the highest scores are removed, so that gradient flow falls least or even rises. The loss is cross-entropy of
logits over a temperature on a batch with equally many rows of each class; g and H are those of the weights that have masks.
Decisions made here:
- Pruning happens at the first step, whose batch trains nothing, as with SNIP. The scored weights are those that are then
  trained; the authors initialise the classifier anew for scoring.
- Norms use the statistics of the scored batch (training mode): running statistics are meaningless yet, and do not change.
- Scores are computed in float64, so that every device gives the same ranking. All rows are one batch: with many classes lower
  `samples_per_class`.
- Each layer keeps its best weight. With `scope: layer` each layer keeps the density that `distribution` gives it. The work is
  counted as nine forward passes of the batch: a forward pass, a backward pass (two), and a backward pass through both (six).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pruneyard.workloads.fields import renamed
from pruneyard.workloads.masks.masks import check_finite, keep_largest_by_scope
from pruneyard.workloads.networks.second_derivatives import twice_differentiable_attention
from pruneyard.workloads.seeding import fork_rng
from pruneyard.workloads.sparse.updater import DenseStart, in_module_order
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["GraSP"]

FORWARDS = 9.0  # work of scoring, in forward passes


@dataclass(frozen=True, kw_only=True)
class GraSP(DenseStart):
    """Pruning at initialisation that preserves the gradient signal."""

    replaces_step: ClassVar[bool] = True

    samples_per_class: int = field(default=10, metadata=renamed("rows_per_class"))  # of the scored batch
    temperature: float = 200.0  # divides logits, above 0
    scope: Literal["layer", "global"] = "global"  # where scores are compared; global ignores `distribution`

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples_per_class < 1:
            raise ValueError(f"samples_per_class is {self.samples_per_class}; it must be 1 or more")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
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
        keep_scores = {name: -score for name, score in self.scores(masks, context).items()}
        masks = keep_largest_by_scope(
            keep_scores,
            masks,
            scope=self.scope,
            counts=self.counts(context.weights),
            generator=context.generator,
        )
        return SparseState(masks, state.tensors)

    def scores(self, masks: Mapping[str, Tensor], context: UpdateContext) -> dict[str, Tensor]:
        """Returns scores of the masked weights on one balanced batch, float64, by name; random layers use `context.generator`."""
        images, labels = context.network.rows(self.samples_per_class, context.generator)
        seed = int(torch.randint(2**62, (), generator=context.generator))
        tensors = {
            name: tensor.double() if tensor.is_floating_point() else tensor
            for name, tensor in context.network.weights.items()
        }
        weights = {name: tensors[name].clone().requires_grad_() for name in masks}
        with fork_rng(images.device, seed), twice_differentiable_attention():
            logits = context.network.logits({**tensors, **weights}, images.double(), training=True)
        context.network.count(FORWARDS, rows=len(labels))
        return removal_effects(cross_entropy(logits / self.temperature, labels), weights)


def removal_effects(loss: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns -w (H g) of a scalar loss: half the first-order change of |g|^2 on removing each weight, in its shape."""
    own = list(weights.values())
    gradients = torch.autograd.grad(loss, own, create_graph=True, materialize_grads=True)
    flow = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()
    products = torch.autograd.grad(flow, own, materialize_grads=True)
    return {
        name: -weight.detach() * product
        for (name, weight), product in zip(weights.items(), products, strict=True)
    }
