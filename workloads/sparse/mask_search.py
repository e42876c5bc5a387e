"""Base class of methods that search for masks of frozen weights, by the gradient of the loss at the masked weights."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.interfaces import NamedParameters
from pruneyard.workloads.masks.masks import check_finite
from pruneyard.workloads.sparse.updater import StaticMask, in_module_order
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Recipe

GRADIENT = "gradient/"  # prefix of the sums of gradients since the last update


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """Implements `pruneyard.workloads.interfaces.OptimizerBuilder`: an optimizer that changes nothing and has no state."""

    lr: float = 0.0

    def build(self, parameters: NamedParameters) -> torch.optim.Optimizer:
        """Returns SGD with the learning rate 0."""
        return torch.optim.SGD([parameter for _, parameter in parameters], lr=self.lr)


@dataclass(frozen=True, kw_only=True)
class MaskSearch(StaticMask, ABC):
    """A search that trains numbers of its own, from which it chooses the masks that the network computes with.

    No parameter of the network changes, biases and norms included, so the recipe's optimizer is not used; running statistics
    follow the masked network. The gradient by an entry of the mask is that by the masked weight times the weight.
    """

    follows_gradient: ClassVar[bool] = True
    stays_masked: ClassVar[bool] = True

    lr: float  # learning rate of the search, which falls to 0 by half a cosine
    every: int = 1  # steps whose gradients are added up for one update

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr}; it must be a finite number above 0")
        if self.every < 1:
            raise ValueError(f"every is {self.every}; it must be at least 1 step")

    @property
    @abstractmethod
    def target_density(self) -> float:
        """Target active share of the weights that are searched; at 1 there is nothing to search."""

    def complete(self, recipe: Recipe) -> Recipe:
        """Returns the recipe with frozen weights, or unchanged at density 1."""
        return recipe if self.target_density == 1 else replace(recipe, optimizer=Frozen())

    def observe_gradients(self, state: SparseState, gradients: Mapping[str, Tensor]) -> SparseState:
        """Returns the state with the gradients added to the sums."""
        sums = {}
        for name in state.forward:
            before = state.tensors.get(f"{GRADIENT}{name}")
            sums[f"{GRADIENT}{name}"] = gradients[name].detach().clone() if before is None else before + gradients[name]
        return replace(state, tensors=state.tensors | sums)

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns True every `every` steps and at the last one, and never at density 1."""
        return self.target_density < 1 and ((step + 1) % self.every == 0 or step == num_steps - 1)

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns the state after a step of the search."""
        tensors = {key: tensor for key, tensor in state.tensors.items() if not key.startswith(GRADIENT)}
        lr = self.lr * 0.5 * (1 + math.cos(math.pi * context.step / context.num_steps))
        forward: dict[str, Tensor] = {}
        for name, _ in in_module_order(state.forward, context):
            weight, gradient = context.weights[name], state.tensors[f"{GRADIENT}{name}"]
            check_finite(weight, name)
            check_finite(gradient, name)
            own = {kind: tensors[f"{kind}/{name}"] for kind in self.kinds}
            forward[name], after = self.search(own, weight * gradient, lr=lr, name=name, state=state, context=context)
            tensors |= {f"{kind}/{name}": tensor for kind, tensor in after.items()}
        return SparseState(state.masks, tensors, forward)

    @property
    @abstractmethod
    def kinds(self) -> tuple[str, ...]:
        """The names of the tensors that the search keeps of each layer."""

    @abstractmethod
    def search(
        self, own: dict[str, Tensor], gradient: Tensor, *, lr: float, name: str, state: SparseState, context: UpdateContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the next mask of a layer and its tensors, by kind.

        own: the tensors of the layer, by kind.
        gradient: of the loss by the entries of the mask, in the shape of the weight.
        """
