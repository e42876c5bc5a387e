"""The mean of the members that improve it on validation rows, best member first (greedy soup).

Reference: Wortsman et al. 2022, Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time (arXiv:2203.05482)

Only the abstract was read, so this is unverified: members are tried from the best on `val` to the worst, and one stays if the
mean with it is not worse on `val` than without. So the soup is never worse there than the best member with batch-norm statistics
that are computed anew, as those of the means are. Ties among members go to the lower NLL on `val`, then to the smaller run key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.merge.averages import weighted_mean
from pruneyard.workloads.merge.context import MergeContext, masked
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedNetwork, UseOfVal, WeightMerger

__all__ = ["Greedy"]


@dataclass(frozen=True, kw_only=True)
class Greedy(WeightMerger):
    """Greedy soup.

    metric: what is compared on `val`.
    """

    revision: ClassVar[int] = 2  # before, means with new batch-norm statistics were compared with members that had their own

    metric: Literal["accuracy", "nll"] = "accuracy"

    def __post_init__(self) -> None:
        if self.metric not in ("accuracy", "nll"):
            raise ValueError(f"metric is {self.metric!r}; it must be accuracy or nll")

    @property
    def use_of_val(self) -> UseOfVal:
        """Returns `choose`: members are chosen on `val`."""
        return "choose"

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedNetwork:
        """Returns the mean of the members that were kept."""
        ranked = sorted(members, key=lambda member: self._rank(member, context))
        kept = ranked[:1]
        best = self._score_of(kept, context)
        for member in ranked[1:]:
            score = self._score_of([*kept, member], context)
            if score >= best:
                kept, best = [*kept, member], score
        return MergedNetwork(
            weights=_mean(kept),
            masks=context.masks_of(kept),
            numbers={"num_kept": float(len(kept))},
            shares={member.run_key: float(member in kept) / len(kept) for member in members},
        )

    def _score_of(self, members: Sequence[Member], context: MergeContext) -> float:
        """Returns the score of the mean of the members, with the batch-norm statistics that the merge would have."""
        weights = context.refreshed(masked(_mean(members), context.masks_of(members)))
        return self._score(context.metrics(context.logits(weights, "val"), "val"))

    def _score(self, metrics: dict[str, float]) -> float:
        return metrics["accuracy"] if self.metric == "accuracy" else -metrics["nll"]

    def _rank(self, member: Member, context: MergeContext) -> tuple[float, float, str]:
        metrics = context.member_metrics(member, "val")
        return -self._score(metrics), metrics["nll"], member.run_key


def _mean(members: Sequence[Member]) -> Tensors:
    return weighted_mean([member.weights for member in members])
