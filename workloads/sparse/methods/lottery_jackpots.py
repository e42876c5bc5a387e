"""Search for the mask of a trained network with frozen weights, starting from magnitude (lottery jackpots).

Reference: Zhang et al. 2021, Lottery Jackpots Exist in Pre-trained Models (arXiv:2104.08700)

Every weight has a score, and each layer computes with the weights of largest scores. Scores are trained by SGD with momentum on
the gradient of the loss by the mask, straight through the choice. They start at 1 for the largest weights in magnitude and at 1
- `gap` for the others. The weights come from an earlier run or a file (`initial`); on random ones it is a search for a network
that works without any training. Written from the abstract and the authors' code. Decisions made here, unverified where these
leave them open:
- How many weights a layer keeps follows from one magnitude ranking over all layers, as in the code, with its best weight at
  least; with `ranking: layer` from `distribution`.
- Short restriction: of the swaps that the scores of a layer ask for after a step, only the share (1 - t)^`restriction` is made,
  rounded up, the most demanded first, with t from 0 to 1 over the budget. The released code has the power 4 but rounds the
  share itself up, so that it never restricts; so does `restriction: 0`.
- Scores have no weight decay. No parameter of the network is trained, biases and norms included.
The optimizer of the recipe is not used; `schedule` neither.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruneyard.workloads.masks.masks import full_masks, keep_largest, keep_largest_by_scope
from pruneyard.workloads.sparse.mask_search import MaskSearch
from pruneyard.workloads.sparse.updater import LayerDensities
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

__all__ = ["LotteryJackpots"]


@dataclass(frozen=True, kw_only=True)
class LotteryJackpots(LayerDensities, MaskSearch):
    """Mask search by trained scores with short restriction."""

    lr: float = 0.1
    momentum: float = 0.9  # of the scores, in [0, 1)
    gap: float = 0.01  # by which the scores of small weights start lower
    restriction: float = 4.0  # power of the share of swaps that is made; 0: all are made
    ranking: Literal["global", "layer"] = "global"  # where magnitudes are compared; global ignores `distribution`

    def __post_init__(self) -> None:
        LayerDensities.__post_init__(self)
        MaskSearch.__post_init__(self)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        for name in ("gap", "restriction"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a finite number of at least 0")
        if self.ranking not in ("global", "layer"):
            raise ValueError(f"ranking is {self.ranking!r}; it must be global or layer")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The scores, and their momentum."""
        return "score", "velocity"

    def start(self, weights: Mapping[str, Tensor], *, generator: torch.Generator) -> SparseState:
        """Returns the masks of the largest weights and the first scores; nothing at density 1."""
        if self.density == 1:
            return SparseState({})
        counts = self.counts(weights)
        masks = keep_largest_by_scope(
            {name: weights[name].abs() for name in counts},
            full_masks(weights, counts),
            scope=self.ranking,
            counts=counts,
            generator=generator,
        )
        scores = {f"score/{name}": 1 - self.gap * (~mask).to(weights[name].dtype) for name, mask in masks.items()}
        velocities = {f"velocity/{name}": torch.zeros_like(scores[f"score/{name}"]) for name in masks}
        return SparseState({}, scores | velocities, forward=masks)

    def search(
        self, own: dict[str, Tensor], gradient: Tensor, *, lr: float, name: str, state: SparseState, context: UpdateContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the mask after the swaps that the trained scores ask for, as far as the restriction lets them."""
        velocity = self.momentum * own["velocity"] + gradient
        score = own["score"] - lr * velocity
        share = (1 - context.step / context.num_steps) ** self.restriction
        mask = swapped(state.forward[name], score, share=share, generator=context.generator, layer=name)
        return mask, {"score": score, "velocity": velocity}


def swapped(mask: Tensor, score: Tensor, *, share: float, generator: torch.Generator, layer: str) -> Tensor:
    """Returns the mask after a share of the swaps that lead to the entries of largest scores, the most demanded first."""
    count = int(torch.count_nonzero(mask))
    everywhere = torch.ones_like(mask)
    wanted = keep_largest(score, everywhere, count=count, generator=generator, layer=layer)
    num = math.ceil(share * int(torch.count_nonzero(wanted & ~mask)))
    kept = keep_largest(score, mask, count=count - num, generator=generator, layer=layer)
    return kept | keep_largest(score, ~mask, count=num, generator=generator, layer=layer)
