"""The mean of the members' weights, each counted equally (uniform soup).

Reference: Wortsman et al. 2022, Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time (arXiv:2203.05482)

Members that were trained apart from random starts have no reason to share a basin, and their mean is usually useless; those that
share their start and much of their training do. The mean of members under one mask is under that mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pruneyard.workloads.merge.averages import weighted_mean
from pruneyard.workloads.merge.context import MergeContext
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedNetwork, WeightMerger

__all__ = ["Uniform"]


@dataclass(frozen=True, kw_only=True)
class Uniform(WeightMerger):
    """Uniform soup."""

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedNetwork:
        """Returns the mean of all members."""
        return MergedNetwork(weights=weighted_mean([m.weights for m in members]), masks=context.masks_of(members))
