"""The mean of the members that improve it on validation rows, best member first (greedy soup).

Reference: Wortsman et al. 2022, Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time (arXiv:2203.05482)

Only the abstract was read, so this is unverified: members are tried from the best on `val` to the worst, and one stays if the
mean with it is not worse on `val` than without. So the soup is never worse there than the best member. Ties among members go to
the lower NLL on `val`, then to the smaller run key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
        best = self._score(context.member_metrics(ranked[0], "val"))
        for member in ranked[1:]:
            weights = masked(_mean([*kept, member]), context.masks_of([*kept, member]))
            score = self._score(context.metrics(context.logits(context.refreshed(weights), "val"), "val"))
            if score >= best:
                kept, best = [*kept, member], score
        return MergedNetwork(
            weights=_mean(kept),
            masks=context.masks_of(kept),
            numbers={"num_kept": float(len(kept))},
            shares={member.run_key: float(member in kept) / len(kept) for member in members},
        )

    def _score(self, metrics: dict[str, float]) -> float:
        return metrics["accuracy"] if self.metric == "accuracy" else -metrics["nll"]

    def _rank(self, member: Member, context: MergeContext) -> tuple[float, float, str]:
        metrics = context.member_metrics(member, "val")
        return -self._score(metrics), metrics["nll"], member.run_key


def _mean(members: Sequence[Member]) -> Tensors:
    return weighted_mean([member.weights for member in members])
