"""Train, prune the smallest weights, rewind, and train again, in rounds (IMP, lottery tickets).

Reference: Frankle and Carbin 2019, The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks (arXiv:1803.03635)

Every round prunes the same share of the surviving weights by magnitude, so that after round r of n the density is
density^(r/n). `rewind` says what happens then:
- `weights`: the whole network returns to its state at the rewinding point, and so does the learning rate. A point after the
  start is due to Frankle et al. 2020, Linear Mode Connectivity and the Lottery Ticket Hypothesis (arXiv:1912.05671).
- `learning_rate`: the weights stay; only the learning rate returns. Renda, Frankle and Carbin 2020, Comparing Rewinding and
  Fine-tuning in Neural Network Pruning (arXiv:2003.02389).
- `shuffled`: the control of the lottery ticket hypothesis. The masks are those of `weights`, but the last round starts from the
  prunable weights of the rewinding point in a random order within each layer. With `rewind_to: 0` that is a new sample of the
  initial distribution under the same mask.
The budget is that of all rounds together: one training from the start and `rounds` trainings from the rewinding point, see
`pruneyard.workloads.sparse.rewinding.Rounds`. Decisions made here:
- A rewinding takes one step of the budget: its batch trains nothing, because its gradient belongs to the weights before it. With
  `learning_rate` the optimizer also steps at a pruning, as with the other methods that prune.
- The copy of the network at the rewinding point is part of checkpoints until the last pruning. Rewinding weights clears the
  optimizer state; rewinding the learning rate keeps it. Running statistics are rewound to those after the forward pass of the
  batch at the rewinding point. Rounds see new batches, as a longer training would.
- Each layer keeps its best weight. With `scope: layer` each layer shrinks to the density that `distribution` gives it.
The defaults prune about a fifth of the weights in a round at density 0.1, as the paper does.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.masks.masks import check_finite, keep_largest_by_scope
from pruneyard.workloads.sparse.rewinding import RewoundSchedule, Rounds
from pruneyard.workloads.sparse.updater import DenseStart, in_module_order
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Recipe

__all__ = ["IMP"]

STORED = "rewind/"  # prefix of the names of the tensors that are stored at the rewinding point


@dataclass(frozen=True, kw_only=True)
class IMP(DenseStart):
    """Iterative magnitude pruning with rewinding."""

    rounds: int = 10  # prunings; the budget is divided into rounds + 1 trainings
    rewind: Literal["weights", "learning_rate", "shuffled"] = "weights"
    rewind_to: float = 0.05  # the rewinding point, as a share of the first training
    scope: Literal["layer", "global"] = "global"  # where magnitudes are compared; global ignores `distribution`

    def __post_init__(self) -> None:
        super().__post_init__()
        Rounds(self.rounds, self.rewind_to)  # checks both
        if self.rewind not in ("weights", "learning_rate", "shuffled"):
            raise ValueError(f"rewind is {self.rewind!r}; it must be weights, learning_rate or shuffled")
        if self.scope not in ("layer", "global"):
            raise ValueError(f"scope is {self.scope!r}; it must be layer or global")

    @property
    def division(self) -> Rounds:
        """How the budget is divided."""
        return Rounds(self.rounds, self.rewind_to)

    def complete(self, recipe: Recipe) -> Recipe:
        """Returns the recipe with a learning-rate schedule that every round runs again from the rewinding point."""
        if self.density == 1 or isinstance(recipe.schedule, RewoundSchedule):
            return recipe
        return replace(recipe, schedule=RewoundSchedule(self.division, recipe.schedule))

    def is_due(self, step: int, *, num_steps: int) -> bool:
        """Returns True where a round starts, and at the rewinding point if weights are rewound; never at density 1."""
        if self.density == 1:
            return False
        stores = self.rewind != "learning_rate" and step == self.division.rewinding_point(num_steps)
        return stores or step in self.division.starts(num_steps)

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Returns the state with a copy of the network at the rewinding point, else pruned and rewound."""
        for name in state.masks:
            check_finite(context.weights[name], name)
        number = self.division.num_started(context.step, num_steps=context.num_steps)
        if self.rewind == "learning_rate":
            return SparseState(self._pruned(state, context, number))
        stored = state.tensors or {f"{STORED}{name}": tensor.clone() for name, tensor in context.network.weights.items()}
        if number == 0:
            return SparseState(state.masks, stored)
        masks = self._pruned(state, context, number)
        rewound = {key.removeprefix(STORED): tensor for key, tensor in stored.items()}
        if number < self.rounds:
            return SparseState(masks, stored, rewound=rewound)
        if self.rewind == "shuffled":
            rewound |= {name: shuffled(rewound[name], context.generator) for name, _ in in_module_order(masks, context)}
        return SparseState(masks, rewound=rewound)

    def _pruned(self, state: SparseState, context: UpdateContext, number: int) -> dict[str, Tensor]:
        """Returns the masks after round `number`."""
        sizes = {name: mask.numel() for name, mask in in_module_order(state.masks, context)}
        final = self.counts(context.weights)
        if self.scope == "global":
            sizes, final = {"": sum(sizes.values())}, {"": sum(final.values())}
        left = number / self.rounds
        return keep_largest_by_scope(
            {name: context.weights[name].abs() for name in state.masks},
            dict(in_module_order(state.masks, context)),
            scope=self.scope,
            counts={name: max(final[name], round(size * (final[name] / size) ** left)) for name, size in sizes.items()},
            generator=context.generator,
        )


def shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Returns a tensor with the same entries in a random order."""
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].reshape(tensor.shape)
