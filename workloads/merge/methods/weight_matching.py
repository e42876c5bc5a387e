"""The mean of the members after their channels are permuted to match those of the first one.

Reference: Ito, Yamada and Kumagai 2024, Analysis of Linear Mode Connectivity via Permutation-Based Weight Matching
(arXiv:2402.04051); Ainsworth, Hayase and Srinivasa 2022, Git Re-Basin: Merging Models modulo Permutation Symmetries
(arXiv:2209.04836)

A permutation of channels changes no network, but the mean of networks. Channels are moved together where the network couples
them; see `pruneyard.workloads.merge.matching`. The first member is the reference for all others, which is unverified for more
than two. Masks move with their weights, so those of sparse members usually differ afterwards, and `masks: union` is needed.
Mean distances of the members to the first one are recorded, before and after.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pruneyard.workloads.merge.averages import weighted_mean
from pruneyard.workloads.merge.context import MergeContext, parameter_names
from pruneyard.workloads.merge.matching import blocks_of, distance, matched
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedNetwork, WeightMerger
from pruneyard.workloads.networks.channel_graph import channel_graph
from pruneyard.workloads.networks.finished import FinishedNetwork

__all__ = ["WeightMatching"]


@dataclass(frozen=True, kw_only=True)
class WeightMatching(WeightMerger):
    """Weight matching to the first member, then the mean."""

    order_matters: ClassVar[bool] = True

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedNetwork:
        """Returns the mean of the matched members. Raises `ValueError` for a network whose channels cannot be followed."""
        first, *others = members
        blocks = blocks_of(channel_graph(context.network, first.blueprint.image_shape), first.weights)
        aligned, names = [first], parameter_names(context.network)
        for member in others:
            context.stop_if_asked()
            weights, masks = matched(first.weights, member.weights, blocks, member.masks)
            aligned.append(
                replace(member, network=FinishedNetwork.of(member.blueprint, weights=weights, masks=masks))
            )
        numbers = {
            name: sum(distance(first.weights, member.weights, names) for member in found) / max(1, len(others))
            for name, found in (("distance_before", others), ("distance_after", aligned[1:]))
        }
        return MergedNetwork(
            weights=weighted_mean([member.weights for member in aligned]), masks=context.masks_of(aligned), numbers=numbers
        )
