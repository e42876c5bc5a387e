"""Every neuron of a layer has the same number of inputs, so that a sparse layer has a regular index (SRigL).

Reference: Lasby et al. 2023, Dynamic Sparse Training with Structured Sparsity (arXiv:2305.02299)

A neuron is an output of a layer, a filter of a convolution; its inputs include the kernel. With `rigl` this is SRigL: weights are
dropped by magnitude in the whole layer, then every neuron grows by gradient until it has its number of inputs again.

`min_salient` above 0 adds neuron ablation. A weight is salient if it would be active after an update without a pattern. A neuron
with fewer salient weights than `min_salient` times its number of inputs has no inputs until the next update, and the others
share its weights equally. The paper uses 0.3 for convolutional networks and 0.95 and more for transformers. Decisions made here,
unverified:
- Among the largest gradients only weights that were not kept count, as in RigL here; released code looks at all weights.
- The number of inputs is rounded, so the count of a layer with ablated neurons is off by up to half a weight for each neuron.
- So many neurons stay that they can hold the layer's weights; outputs of the last prunable layer all stay.
- An ablated neuron keeps its bias. The export format `compact` removes neurons without inputs.
With one neuron in each layer this is `unstructured`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.masks.groups import keep_largest_in_groups
from pruneyard.workloads.masks.masks import drop_and_grow, keep_largest
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.sparse.pattern import LayerMove, Pattern

__all__ = ["ConstantFanIn"]


@dataclass(frozen=True, kw_only=True)
class ConstantFanIn(Pattern):
    """One group for each neuron."""

    examples: ClassVar[tuple[Settings, ...]] = ({}, {"min_salient": 0.4})

    min_salient: float = 0.0  # salient share of a neuron's weights below which it is ablated, in [0, 1]; 0: never

    def __post_init__(self) -> None:
        if not 0 <= self.min_salient <= 1:
            raise ValueError(f"min_salient is {self.min_salient}; it must lie in [0, 1]")

    @property
    def is_balanced(self) -> bool:
        """True: every neuron has the same number of inputs."""
        return True

    @property
    def reads_gradient(self) -> bool:
        """True with neuron ablation."""
        return self.min_salient > 0

    def refusal(self, shape: tuple[int, ...]) -> str:
        """Returns an empty text: every weight fits."""
        return ""

    def divide(self, tensor: Tensor) -> Tensor:
        """Returns the inputs of every neuron, (outputs, inputs * kernel, 1)."""
        return tensor.reshape(len(tensor), -1, 1)

    def join(self, entries: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Returns the tensor of the weight's shape."""
        return entries.reshape(shape)

    def drop_and_grow(self, move: LayerMove) -> Tensor:
        """Returns the mask moved as by `Pattern.drop_and_grow`, without the inputs of ablated neurons."""
        if not self.min_salient or move.is_last:
            return super().drop_and_grow(move)
        mask, drop, grow = (tensor.flatten(1) for tensor in (move.mask, move.drop_scores, move.grow_scores))
        num_active = int(torch.count_nonzero(mask))
        num_moved = int(move.drop_fraction * num_active)
        if num_moved == 0 or num_active == mask.numel():
            return move.mask
        salient = drop_and_grow(
            mask, drop_scores=drop, grow_scores=grow, num_moved=num_moved, generator=move.generator, layer=move.layer
        )
        stays = self.staying(salient.sum(1), count=move.count, num_inputs=mask.shape[1])
        fan_in = round(move.count / int(stays.sum()))
        candidates = mask & stays[:, None]
        num_kept = min(num_active - num_moved, int(torch.count_nonzero(candidates)))
        kept = keep_largest(drop, candidates, count=num_kept, generator=move.generator, layer=move.layer)
        kept = keep_largest_in_groups(
            drop, kept, counts=kept.sum(1).clamp(max=fan_in), generator=move.generator, layer=move.layer
        )
        missing = torch.where(stays, fan_in - kept.sum(1), 0)
        grown = keep_largest_in_groups(grow, ~kept, counts=missing, generator=move.generator, layer=move.layer)
        return (kept | grown).reshape(move.mask.shape)

    def staying(self, num_salient: Tensor, *, count: int, num_inputs: int) -> Tensor:
        """Returns which neurons are not ablated, (outputs,) bool.

        num_salient: salient weights of each neuron, (outputs,). count: active weights of the layer.
        """
        least = max(1, -(-count // num_inputs))  # neurons that can hold the layer's weights
        enough = num_salient >= self.min_salient * count / len(num_salient)
        best = num_salient.argsort(descending=True, stable=True)[:least]
        return enough.index_fill(0, best, True)
