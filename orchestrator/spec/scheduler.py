"""Defines the `scheduler` table of a spec: when trainings are stopped early."""

from dataclasses import dataclass
from typing import Literal

from pruneyard.orchestrator.spec.codec import short_json
from pruneyard.orchestrator.spec.direction import FITTED_ON, chosen_direction, nearest_metric


def check_metric(name: str, *, field: str) -> None:
    """Raises `ValueError` for a metric that a choice must not depend on, above all one of the test split."""
    split, slash, _ = name.partition("/")
    if not slash or split not in FITTED_ON:
        splits = ", ".join(FITTED_ON)
        why = "; settings chosen on the test split cannot be tested on it" if split == "test" else nearest_metric(name)
        raise ValueError(
            f"{field} is {short_json(name)}; it must be split/name with a split of {splits}, such as val/accuracy{why}"
        )


_SHARED = ("metric", "mode", "grace")
_USED = {
    "fifo": (),
    "asha": (*_SHARED, "reduction_factor"),
    "median": (*_SHARED, "min_others"),
    "hyperband": (*_SHARED, "reduction_factor"),
}


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """The rule by which trainings are stopped early.

    name: `fifo` stops none. `asha`: at the shares grace, grace * reduction_factor, ... of its steps a configuration continues
        only if it is among the best 1 / reduction_factor of those that have reached the share by then. `median`: from grace on,
        at every evaluation, it continues unless its best is worse than the median of the others' means up to that share.
        `hyperband`: brackets of configurations that start with a share of 1 / reduction_factor**s of their steps, for every s
        down to 0 that leaves at least grace; they pause there, and when all have paused, the best 1 / reduction_factor resume.
    mode: `max` or `min`; left out, the direction of the metric, which must be a known one.
    grace: share of a job's steps before the first decision, in (0, 1).
    min_others: for `median`, the number of other configurations that must have reached the share before one is stopped.
    Reference: L. Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020 (the variant that stops, not pauses);
    D. Golovin et al., "Google Vizier", 2017, for the median rule; L. Li et al., "Hyperband", JMLR 18, 2018.
    """

    name: Literal["fifo", "asha", "median", "hyperband"] = "fifo"
    metric: str | None = None
    mode: Literal["max", "min"] | None = None
    grace: float | None = None
    reduction_factor: float | None = None
    min_others: int | None = None

    def __post_init__(self) -> None:
        used = _USED[self.name]
        for name in (*_SHARED, "reduction_factor", "min_others"):
            if name not in used and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; {self.name} has no use for it, so leave it out"
                )
        if self.name != "fifo":
            if self.metric is None:
                raise ValueError("metric is missing; it must be split/name, such as val/accuracy")
            check_metric(self.metric, field="metric")
            if chosen_direction(self.metric, self.mode, field="mode") == "min":
                object.__setattr__(self, "mode", "min")  # None means max, so that journals of earlier calls stay valid
        if not 0 < self.first < 1:
            raise ValueError(f"grace is {self.grace}; it must lie in (0, 1), a share of each job's steps")
        if self.factor <= 1:
            raise ValueError(f"reduction_factor is {self.reduction_factor}; it must be above 1")
        if self.name == "hyperband" and self.first > 1 / self.factor + 1e-9:
            raise ValueError(
                f"grace is {self.first}; it must be at most 1 / reduction_factor, which is {1 / self.factor:g}, "
                "so that there is a decision to make"
            )
        if self.num_others < 1:
            raise ValueError(f"min_others is {self.min_others}; it must be 1 or more")

    @property
    def first(self) -> float:
        """Returns the share of the steps before which nothing is stopped; 0.1 by default."""
        return 0.1 if self.grace is None else self.grace

    @property
    def factor(self) -> float:
        """Returns the reduction factor: one in this many configurations continues; 3 by default."""
        return 3.0 if self.reduction_factor is None else self.reduction_factor

    @property
    def num_others(self) -> int:
        """Returns the number of other configurations that the median rule needs; 3 by default."""
        return 3 if self.min_others is None else self.min_others

    @property
    def rungs(self) -> list[float]:
        """Returns the shares at which `asha` decides, all below 1."""
        shares, share = [], self.first
        # The products are rounded, and a share just below 1 would mean the end of the training.
        while share < 1 - 1e-9:
            shares.append(share)
            share *= self.factor
        return shares
