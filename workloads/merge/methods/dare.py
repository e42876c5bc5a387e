"""The mean of the members' updates, of which a random part is dropped and the rest rescaled (DARE).

Reference: Deng et al. 2024, DARE the Extreme: Revisiting Delta-Parameter Pruning For Fine-Tuned Models (arXiv:2410.09344)

An update is the difference of a member from the start that all members share. Each of its entries is dropped with probability
`drop`, independently, and those that stay are divided by `rescale`. With 1 - drop, the default, the merge has the mean of the
updates as its expectation. Larger values are those of DAREx-q, for updates that are too large to be rescaled so much; the paper
finds the value by search, here an axis of the grid does. Buffers are averaged.
Left out: DAREx-L2, a regularisation of the training before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.merge.averages import weighted_mean
from pruneyard.workloads.merge.context import MergeContext, masked, parameter_names
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedNetwork, WeightMerger

__all__ = ["Dare"]


@dataclass(frozen=True, kw_only=True)
class Dare(WeightMerger):
    """Drop and rescale.

    drop: share of the entries of an update that are dropped, in [0, 1).
    rescale: divisor of those that stay, in [1 - drop, 1]; 0 for 1 - drop.
    """

    keeps_copies: ClassVar[bool] = False  # only in expectation

    drop: float = 0.9
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is {self.drop}; it must lie in [0, 1)")
        if not (self.rescale == 0 or 1 - self.drop <= self.rescale <= 1):
            raise ValueError(f"rescale is {self.rescale}; it must lie in [{1 - self.drop:.3g}, 1], or be 0 for its lower end")

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedNetwork:
        """Returns the start plus the mean of the dropped and rescaled updates."""
        masks = context.masks_of(members)
        start = masked(context.start(), masks)
        merged = weighted_mean([self._thinned(member, start, context) for member in members])
        return MergedNetwork(weights=merged, masks=masks)

    def _thinned(self, member: Member, start: dict[str, Tensor], context: MergeContext) -> dict[str, Tensor]:
        """Returns the start plus one member's dropped and rescaled update."""
        generator, weights = context.generator(f"dare/{member.run_key}"), dict(member.weights)
        for name in parameter_names(context.network):
            update = weights[name] - start[name]
            weights[name] = start[name] + dropped(update, self.drop, self.rescale or 1 - self.drop, generator)
        return weights


def dropped(update: Tensor, drop: float, rescale: float, generator: torch.Generator) -> Tensor:
    """Returns an update with random entries set to 0 and the others divided by `rescale`."""
    kept = torch.rand(update.shape, generator=generator) >= drop
    return torch.where(kept, update / rescale, 0.0)
