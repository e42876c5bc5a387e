"""Compute with the N largest of every M adjacent weights, and train all by straight-through gradients (SR-STE).

Reference: Zhou et al. 2021, Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch (arXiv:2102.04010)

Groups lie along the dimension that is summed over, as kernels for 2:4 sparsity require: input channels of a convolution, inputs
of a linear layer. So do those of the authors' code, which stores convolutions with the input channels last. The gradient at the
pruned weights is taken for all weights, plus `decay` times the weight where it is pruned, which stabilises the choice.
Decisions made here:
- Layers whose number of inputs (per group of a grouped convolution) is not a multiple of M stay dense and do not count for the
  density: mostly the first and depthwise ones. So do those of `keep_dense`. Transposed convolutions are not treated specially.
- The choice is made before the optimizer's step, so it is used one step later; published code chooses in the forward pass.
- Of equal weights the first is kept.
With n = m it is dense training.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.fields import renamed
from pruneyard.workloads.masks.distributions import dense_layers
from pruneyard.workloads.masks.input_groups import by_input_groups, check_nm, from_input_groups
from pruneyard.workloads.masks.masks import check_finite
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.sparse.updater import StaticMask
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["NM"]


@dataclass(frozen=True, kw_only=True)
class NM(StaticMask):
    """N:M sparsity with a sparse-refined straight-through estimator."""

    dense_settings: ClassVar[Settings] = {"n": 4}
    stays_masked: ClassVar[bool] = True

    n: int = field(default=2, metadata=renamed("keep"))  # active weights of every group
    m: int = field(default=4, metadata=renamed("group"))  # size of a group
    decay: float = 2e-4  # extra weight decay of pruned weights; 0: none
    every: int = 1  # steps between two choices; each reads all weights
    keep_dense: tuple[str, ...] = ()  # layer names, shell patterns, or `first`; outside the density

    def __post_init__(self) -> None:
        check_nm(self.n, self.m)
        if not 0 <= self.decay < math.inf:
            raise ValueError(f"decay is {self.decay}; it must be a finite number of at least 0")
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it must be at least 1 step")

    @property
    def target_density(self) -> float:
        """Active share of the weights in groups."""
        return self.n / self.m

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns the masks for the initial weights; raises `ValueError` if no layer can be divided into groups."""
        return SparseState({}, forward={name: self.choose_masks(weights[name]) for name in self.counts(weights)})

    def counts(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Returns the number of active weights of each layer with groups; empty if `n` equals `m`."""
        if self.n == self.m:
            return {}
        dense = dense_layers(list(weights), self.keep_dense)
        sparse = [name for name, w in weights.items() if name not in dense and w.shape[1] % self.m == 0]
        if not sparse:
            inputs = ", ".join(f"{name} ({weight.shape[1]})" for name, weight in weights.items())
            raise ValueError(f"m is {self.m}; it must divide the inputs of a layer: {inputs}")
        return {name: weights[name].numel() // self.m * self.n for name in sparse}

    def extra_decay(self, state: SparseState) -> Mapping[str, Tensor]:
        """Returns `decay` for pruned weights, 0 for active ones."""
        return {name: self.decay * ~mask for name, mask in state.forward.items()} if self.decay else {}

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns True every `every` steps, and never if `n` equals `m`."""
        return self.n < self.m and step > 0 and step % self.every == 0

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns masks chosen anew by the current weights."""
        for name in state.forward:
            check_finite(context.weights[name], name)
        return SparseState({}, forward={name: self.choose_masks(context.weights[name]) for name in state.forward})

    def choose_masks(self, weight: Tensor) -> Tensor:
        """Returns the mask (outputs, inputs, *kernel) of the largest weights of every group, by pairwise comparison."""
        groups = by_input_groups(weight.detach().abs(), self.m)
        beaten_by = torch.zeros(groups.shape, dtype=torch.int16, device=weight.device)
        for later in range(self.m):
            for earlier in range(later):
                larger = groups[:, later] > groups[:, earlier]
                beaten_by[:, earlier] += larger
                beaten_by[:, later] += ~larger
        return from_input_groups(beaten_by < self.n, tuple(weight.shape))
