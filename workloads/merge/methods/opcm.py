"""Members are added one after the other, each without the directions that the merged update already has (OPCM).

Reference: Tang et al. 2025, Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable Continual Model
Merging (arXiv:2501.09522)

An update is the difference of a member from the start that all members share. Only the abstract was read, which names
orthogonal projections and a scaling that keeps parameter distances stable. This reading is unverified: of each weight matrix
(outputs, inputs times kernel), the new update loses its part between the leading left and the leading right singular vectors of
the merged update, which hold the share `energy` of its squared norm. It is added to the sum of all so far, and the sum is
scaled to the mean norm of the updates. Other parameters and buffers are averaged. Entries outside masks are set to 0
afterwards, so under masks the directions are orthogonal only approximately.
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

__all__ = ["OPCM"]


@dataclass(frozen=True, kw_only=True)
class OPCM(WeightMerger):
    """Orthogonal projection-based continual merging.

    energy: share of the squared norm of the merged update in the directions that a new one loses, in [0, 1].
    """

    order_matters: ClassVar[bool] = True
    keeps_copies: ClassVar[bool] = False

    energy: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.energy <= 1:
            raise ValueError(f"energy is {self.energy}; it must lie in [0, 1]")

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedNetwork:
        """Returns the start plus the merged update, members in their order."""
        masks = context.masks_of(members)
        start = masked(context.start(), masks)
        weights = weighted_mean([member.weights for member in members])
        for name in parameter_names(context.network):
            if start[name].ndim > 1:
                context.stop_if_asked()
                updates = [(member.weights[name] - start[name]).double().flatten(1) for member in members]
                merged = merged_update(updates, self.energy).reshape(start[name].shape)
                weights[name] = start[name] + merged.to(start[name].dtype)
        return MergedNetwork(weights=weights, masks=masks)


def merged_update(updates: Sequence[Tensor], energy: float) -> Tensor:
    """Returns the merged update (M, N) of updates (M, N), one after the other; its norm is the mean of theirs."""
    merged, total, norms = updates[0], updates[0], [float(updates[0].norm())]
    for update in updates[1:]:
        norms.append(float(update.norm()))
        total = total + projected(update, merged, energy)
        size = float(total.norm())
        merged = total * (sum(norms) / len(norms) / size) if size > 0 else total
    return merged


def projected(update: Tensor, merged: Tensor, energy: float) -> Tensor:
    """Returns an update (M, N) without its part between the leading singular vectors of `merged` (M, N)."""
    left, values, right = torch.linalg.svd(merged, full_matrices=False)
    squares = values.square()
    if energy == 0 or not squares.sum() > 0:
        return update
    shares = squares.cumsum(0) / squares.sum()
    rank = min(int((shares < energy).sum()) + 1, len(values))
    left, right = left[:, :rank], right[:rank]
    remaining: Tensor = update - left @ (left.T @ update @ right.T) @ right
    return remaining
