"""The mean of the members' weights, scaled so that each layer keeps the variance that the members have.

Reference: Vanishing Variance Problem in Fully Decentralized Neural-Network Systems (2024)

The mean of n uncorrelated networks has an n-th of their variance, which is that of a good initialisation. Only the abstract was
read; this reading is unverified: the deviations of the averaged weights of a layer from their mean are multiplied by the
root of the members' mean variance over the variance of the average. For uncorrelated members that is the root of n, for copies
it is 1, so the correlation of the members needs no estimate. Variances are those of the active weights; biases, norms and
buffers are averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.merge.averages import weighted_mean
from pruneyard.workloads.merge.context import MergeContext
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedNetwork, WeightMerger

__all__ = ["GossipVariance"]


@dataclass(frozen=True, kw_only=True)
class GossipVariance(WeightMerger):
    """Variance-corrected average."""

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedNetwork:
        """Returns the mean of all members with restored variances."""
        masks, weights = context.masks_of(members), weighted_mean([member.weights for member in members])
        factors = {}
        for name, parameter in context.network.named_parameters():
            if parameter.ndim > 1:
                mask = masks.get(name, torch.ones(parameter.shape, dtype=torch.bool))
                weights[name], factors[name] = restored(weights[name], [member.weights[name] for member in members], mask)
        mean_factor = sum(factors.values()) / max(1, len(factors))
        return MergedNetwork(weights=weights, masks=masks, numbers={"variance_factor": mean_factor})


def restored(average: Tensor, weights: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, float]:
    """Returns an averaged weight with the mean variance of `weights` on the active entries, and the factor of its deviations."""
    active = average[mask].double()
    own = float(active.var(correction=0)) if len(active) else 0.0
    if own == 0:
        return average, 1.0
    wanted = sum(float(weight[mask].double().var(correction=0)) for weight in weights) / len(weights)
    factor = (wanted / own) ** 0.5
    scaled = average.clone()
    scaled[mask] = (active.mean() + (active - active.mean()) * factor).to(average.dtype)
    return scaled, factor
