"""Bayesian binning into quantiles (BBQ): averages histogram binnings of many sizes by their likelihoods.

Reference: Naeini, Cooper and Hauskrecht 2015, Obtaining Well Calibrated Probabilities Using Bayesian Binning (AAAI)

Every class is binned against the rest, into B bins of equal mass for every B from N^(1/3) / 10 to min(10 N^(1/3), N /
5); in a bin the share of positives has a Beta prior of strength `prior` / B around the bin's midpoint. The weight of a
binning is its marginal likelihood, and the value of a bin is its posterior mean, (m + a) / (n + prior / B); that the paper
uses this mean, not m / n, is unverified. Equal probabilities share a bin, so a binning may have fewer bins than requested;
B is the actual number. Rows are scaled to sum to 1. Memory is up to N steps per class.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, softmax

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels, PostHoc
from pruneyard.workloads.calibrate.methods.histogram import FittedSteps
from pruneyard.workloads.calibrate.one_vs_rest import probabilities_of
from pruneyard.workloads.calibrate.step_maps import Steps, edges_before

__all__ = ["BBQ"]

Positions = NDArray[np.int64]
SMALLEST_CENTRE = 1e-6  # a prior centred at exactly 0 or 1 (bins without width in float64) has no density


@dataclass(frozen=True, kw_only=True)
class BBQ(PostHoc):
    """Bayesian binning into quantiles, one-vs-rest for every class."""

    prior: float = 2.0  # prior strength in rows, over all bins of a binning
    spread: float = 10.0  # numbers of bins from N^(1/3) / spread to N^(1/3) * spread

    becomes: ClassVar[type[Fitted]] = FittedSteps

    def __post_init__(self) -> None:
        if not 0 < self.prior < float("inf"):
            raise ValueError(f"prior is {self.prior}; it must be above 0, and finite")
        if not 1 <= self.spread < float("inf"):
            raise ValueError(f"spread is {self.spread}; it must be 1 or more, and finite")

    @property
    def keeps_argmax(self) -> bool:
        """False: classes are binned separately, and probabilities of one bin become equal."""
        return False

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedSteps:
        p_NC = probabilities_of(logits_NC)
        cuts, first = self._cuts(len(p_NC))
        steps = [self._average(p_N, labels_N == k, cuts, first) for k, p_N in enumerate(p_NC.T)]
        return FittedSteps.of(steps, 0.0)

    def _cuts(self, num_rows: int) -> tuple[Positions, NDArray[np.bool_]]:
        """Returns the start positions of the bins of all binnings, and which of them are the first bin of a binning."""
        sizes = self.sizes(num_rows)
        cuts = np.concatenate([np.arange(num_bins) * num_rows // num_bins for num_bins in sizes])
        return cuts, cuts == 0

    def _average(
        self, p_N: Floats, outcomes_N: NDArray[np.bool_], cuts: Positions, first: NDArray[np.bool_]
    ) -> Steps:
        """Returns the weighted average of all binnings, a step function on the edges of all of them."""
        order = np.argsort(p_N, kind="stable")
        sorted_N, num_rows = p_N[order], len(p_N)
        positives_to = np.concatenate([[0], np.cumsum(outcomes_N[order])])
        after_ties = np.searchsorted(sorted_N, sorted_N, side="right")
        # A start inside equal probabilities moves behind them, so that they share a bin.
        starts = np.where(first, 0, after_ties[np.maximum(cuts, 1) - 1])
        # Of several bins with one start a single one is kept; a bin that starts at N is empty.
        kept = first | ((starts != np.roll(starts, 1)) & (starts < num_rows))
        starts, first = starts[kept], first[kept]
        # A bin ends where the next one of its binning starts, and the last one at N.
        ends = np.where(np.roll(first, -1), num_rows, np.roll(starts, -1))
        counts, positives = (ends - starts).astype(np.float64), positives_to[ends] - positives_to[starts]
        places = np.unique(starts)
        # Edges of all binnings together; `which` is the place of a bin's lower edge among them.
        edges = np.concatenate([[0.0], edges_before(sorted_N, places[1:])])
        which = np.searchsorted(places, starts)
        lower = edges[which]
        upper = np.where(ends == num_rows, 1.0, edges[np.roll(which, -1)])
        # Number of the binning that each bin belongs to.
        binning = np.cumsum(first) - 1
        strength = self.prior / np.bincount(binning)[binning]
        a, d = prior_counts((lower + upper) / 2, strength)
        # The sum over the bins of each binning. Marginal likelihoods underflow, but softmax needs only their logarithms.
        weights = softmax(np.bincount(binning, weights=log_marginals(counts, positives, a, d)))
        values = weights[binning] * (positives + a) / (counts + strength)
        # The average of step functions, as the running sum of the rises of all of them at the common edges.
        rises = np.where(first, values, values - np.roll(values, 1))
        rises_at = np.bincount(which, weights=rises)
        # The running sum may round to 0 or above 1, and no uniform share keeps the logarithm finite here.
        averages = np.clip(np.cumsum(rises_at), np.finfo(np.float64).tiny, 1.0)
        return Steps(edges=edges[1:], values=averages.astype(np.float64))

    def sizes(self, num_rows: int) -> range:
        """Returns the numbers of bins that are averaged over."""
        root = num_rows ** (1 / 3)
        smallest = max(1, round(root / self.spread))
        return range(smallest, max(smallest, int(min(root * self.spread, num_rows / 5))) + 1)


def prior_counts(centres: Floats, strength: Floats) -> tuple[Floats, Floats]:
    """Returns the pseudo-counts (positives, negatives) of Beta priors around the bin centres."""
    centres = np.clip(centres, SMALLEST_CENTRE, 1 - SMALLEST_CENTRE)
    return strength * centres, strength * (1 - centres)


def log_marginals(counts: Floats, positives: Floats, a: Floats, d: Floats) -> Floats:
    """Returns the log marginal likelihood of each bin under Beta(a, d), in nats. A binning's is the sum over its bins."""
    return np.asarray(betaln(positives + a, counts - positives + d) - betaln(a, d))
