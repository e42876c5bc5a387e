"""The mean of the members, weighted by their loss or by their steps (metrics-weighted averaging).

Reference: Parameter-Efficient Checkpoint Merging via Metrics-Weighted Averaging (2025)

Only the abstract was read: it names weighting by training loss and by steps, and one penalty factor. The formula is
unverified: the share of a member is proportional to loss^-penalty, or to steps^penalty. A penalty of 0 is the uniform soup, and a
large one leaves the member with the lowest loss or the most steps. The loss is the mean cross-entropy on whole training rows, not
augmented, in evaluation mode; `val_loss` is that on `val`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from pruneyard.workloads.merge.averages import weighted_mean
from pruneyard.workloads.merge.context import MergeContext
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedNetwork, UseOfVal, WeightMerger
from pruneyard.workloads.plugins import find
from pruneyard.workloads.training.recipe import Budget

__all__ = ["Weighted"]

SMALLEST_LOSS = 1e-12  # a loss of 0 would give its member an infinite share


@dataclass(frozen=True, kw_only=True)
class Weighted(WeightMerger):
    """Metrics-weighted averaging.

    by: what decides the shares. `steps` are those of the members' budgets.
    penalty: exponent, 0 or more.
    """

    by: Literal["train_loss", "val_loss", "steps"] = "train_loss"
    penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.by not in ("train_loss", "val_loss", "steps"):
            raise ValueError(f"by is {self.by!r}; it must be train_loss, val_loss or steps")
        if not 0 <= self.penalty < math.inf:
            raise ValueError(f"penalty is {self.penalty}; it must be a finite number, 0 or more")

    @property
    def use_of_val(self) -> UseOfVal:
        """Returns `choose` if the shares are computed from losses on `val`."""
        return "choose" if self.by == "val_loss" else "none"

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedNetwork:
        """Returns the weighted mean of all members. Raises `ValueError` if `steps` are asked for and not known."""
        if self.by == "steps":
            _check_steps_are_known(members)
        shares = softmax([self.penalty * math.log(self._merit(member, context)) for member in members])
        return MergedNetwork(
            weights=weighted_mean([member.weights for member in members], shares),
            masks=context.masks_of(members),
            shares={member.run_key: share for member, share in zip(members, shares, strict=True)},
        )

    def _merit(self, member: Member, context: MergeContext) -> float:
        """Returns a positive number whose power is the share of a member: its steps, or one over its loss."""
        if self.by == "steps":
            return float(_num_steps(member, len(context.splits["train"])))
        return 1 / max(context.member_metrics(member, self.by.removesuffix("_loss"))["nll"], SMALLEST_LOSS)


def softmax(exponents: Sequence[float]) -> list[float]:
    """Returns positive shares with sum 1, proportional to the exponentials."""
    largest = max(exponents)
    powers = [math.exp(exponent - largest) for exponent in exponents]
    return [power / sum(powers) for power in powers]


def _check_steps_are_known(members: Sequence[Member]) -> None:
    """Raises `ValueError` for epochs of different data: how many rows each has is not known here."""
    in_epochs = [member for member in members if not (member.spec.get("budget") or {}).get("steps")]
    for other in in_epochs[1:]:
        if _data_of(other) != _data_of(in_epochs[0]):
            given = f"{in_epochs[0].run_key} and {other.run_key} have budgets of epochs and were trained on different data"
            raise ValueError(f"by is steps, but {given}, so their steps are not known; give budget.steps, or choose a loss")


def _data_of(member: Member) -> dict[str, Any]:
    """Returns the table of its data without what may differ for equal data, such as the folder that it is read from."""
    table = member.spec.get("data") or {}
    source = find("data.sources", table["name"]) if "name" in table else None
    places = {each.name for each in fields(source) if each.metadata.get("identity") is False} if source else set()
    return {name: value for name, value in table.items() if name not in places}


def _num_steps(member: Member, num_rows: int) -> int:
    """Returns the training steps of a member's budget. Raises `ValueError` for a run without one."""
    table = member.spec.get("budget")
    if not isinstance(table, dict) or "batch_size" not in table:
        raise ValueError(f"by is steps, but {member.run_key} is a run without a budget of steps; choose a loss")
    budget = Budget(**{name: table[name] for name in ("epochs", "steps", "batch_size")})
    return budget.num_steps(num_rows)
