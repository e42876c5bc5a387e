"""Costs up to a target where some runs never reach it: the Kaplan-Meier estimate."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from pruneyard.reports.statistics.intervals import Floats


@dataclass(frozen=True, kw_only=True)
class ShareReached:
    """The share of runs that have reached the target, as a step function of the cost.

    costs: `(N,)`, ascending, where the share changes. share, low, high: `(N,)`, from that cost on, with interval.
    """

    costs: Floats
    share: Floats
    low: Floats
    high: Floats

    def cost_of_share(self, share: float) -> float:
        """Returns the cost at which that share of runs has reached the target, such as the median at 0.5; NaN if never."""
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it must lie in (0, 1]")
        reached = np.flatnonzero(self.share >= share - 1e-12)
        return float(self.costs[reached[0]]) if len(reached) else math.nan


def share_reached(costs: npt.ArrayLike, reached: npt.ArrayLike, *, level: float = 0.95) -> ShareReached:
    """Estimates which share of runs has reached a target at each cost.

    costs: `(S,)`, of each run up to the target, or up to its end where it did not reach the target. reached: `(S,)`, booleans.
    A run that ended without the target counts among those that may still reach it up to its end, and not afterwards. The
    interval is Greenwood's on the scale of log(-log), which keeps it in [0, 1]; NaN where the estimate is 0 or 1.
    Reference: Kaplan and Meier, "Nonparametric estimation from incomplete observations", JASA 1958; Greenwood, 1926.
    """
    ends, events = np.asarray(costs, dtype=np.float64), np.asarray(reached, dtype=bool)
    if ends.ndim != 1 or ends.shape != events.shape or not len(ends) or not np.isfinite(ends).all():
        raise ValueError("costs and reached must have one finite value for each run, and there must be at least one run")
    at = np.unique(ends[events])
    num_at = np.array([(events & (ends == cost)).sum() for cost in at], dtype=np.float64)
    num_left = np.array([(ends >= cost).sum() for cost in at], dtype=np.float64)
    missing: Floats = np.cumprod(1 - num_at / num_left, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = np.cumsum(num_at / (num_left * (num_left - num_at)))
        error = np.sqrt(variance) / np.abs(np.log(missing))
        shift = np.exp(special.ndtri((1 + level) / 2) * error)
        low, high = 1 - missing ** (1 / shift), 1 - missing**shift
    inside = (missing > 0) & (missing < 1)
    low, high = np.where(inside, low, np.nan), np.where(inside, high, np.nan)
    return ShareReached(costs=at, share=1 - missing, low=low, high=high)
