"""Conformal prediction: protocol and base classes of conformal rules, and their fitted prediction sets.

A rule gives every class of a row a nonconformity score; a set holds the classes whose score is at most a threshold, the k-th
smallest score of the true classes of n calibration rows, k = ceil((n + 1)(1 - alpha)), or infinity if k > n. If calibration
rows and new ones are exchangeable, the true class is in the set with probability at least 1 - alpha, for every n. Nothing
else may be fitted on the calibration rows, neither the network nor a temperature.

Reference: Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World; Angelopoulos and Bates (arXiv:2107.07511).
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruneyard.workloads.metrics.classification import check_inputs
from pruneyard.workloads.plugins import name_of
from pruneyard.workloads.seeding import stream_seed

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Sets = NDArray[np.bool_]

logger = logging.getLogger(__name__)


def rank_of_threshold(num_rows: int, alpha: float) -> int:
    """Returns k = ceil((n + 1)(1 - alpha)), computed exactly with alpha as the decimal number that it prints as."""
    # In floats, (n + 1)(1 - alpha) may round above a whole number, and `ceil` would then skip a rank.
    return math.ceil((num_rows + 1) * (1 - Fraction(repr(float(alpha)))))


def threshold(scores: Floats, alpha: float) -> float:
    """Returns the k-th smallest of `scores: (n,)` without interpolation; infinity if there are fewer than k."""
    rank = rank_of_threshold(len(scores), alpha)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else float("inf")


@dataclass(frozen=True, kw_only=True)
class FittedSets:
    """Thresholds of a conformal rule, fitted to calibration rows.

    thresholds: (K,), equal unless each class has its own. num_rows: (K,) number of calibration rows per threshold.
    seed: of the random numbers at prediction, which differ from those at calibration. chosen: options of `rule` that were
    chosen by fitting.
    """

    rule: "ScoredRule"
    thresholds: Floats
    num_rows: Labels
    seed: int
    chosen: Mapping[str, float]

    @property
    def tensors(self) -> Mapping[str, NDArray[np.generic]]:
        """All fitted arrays, by name; see `numbers` for the chosen options."""
        return {"thresholds": self.thresholds, "num_rows": self.num_rows}

    @property
    def numbers(self) -> Mapping[str, float]:
        """The finite values that a table should show: chosen options, the number of infinite thresholds, and the threshold if
        all classes share one.
        """
        infinite = np.isinf(self.thresholds)
        shown = {**self.chosen, "infinite_thresholds": float(infinite.sum())}
        return (
            shown if self.rule.by_class or infinite[0] else {**shown, "threshold": float(self.thresholds[0])}
        )

    def predict(self, probabilities: ArrayLike) -> Sets:
        """Returns prediction sets (M, K) for `probabilities: (M, K)`, True for the classes in a set; sets may be empty.

        Equal rows in equal order give equal sets. Raises `ValueError` for rows that are not distributions over the K classes.
        """
        rows = checked_rows(probabilities)
        if rows.shape[1] != len(self.thresholds):
            raise ValueError(
                f"probabilities have {rows.shape[1]} classes, but the sets were fitted to {len(self.thresholds)}"
            )
        return self.rule.scores(rows, self.rule.draws(self.seed, "predict", len(rows))) <= self.thresholds


@dataclass(frozen=True, kw_only=True)
class ConformalRule(ABC):
    """Base class of the plug-ins of the family `calibrate.conformal`: a frozen dataclass of options."""

    revision: ClassVar[int] = 2  # before, rules were fitted to half of the rows even where no calibrator was fitted
    is_nested: ClassVar[bool] = True  # True: a smaller alpha never removes a class from a set

    alpha: float = 0.1  # largest probability of missing the true class
    by_class: bool = False  # one threshold per class, for coverage of each class; needs rows of every class

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}; it must lie in (0, 1)")

    @abstractmethod
    def fit(self, probabilities: ArrayLike, labels: ArrayLike, *, seed: int) -> FittedSets:
        """Fits thresholds to `probabilities: (N, K)` and `labels: (N,)` of rows used for no other training or fitting.

        `seed` determines all random numbers. A class with too few rows gets an infinite threshold and is in every set; a
        warning names it. Raises `ValueError` for rows that are not distributions, and for labels out of range.
        """


@dataclass(frozen=True, kw_only=True)
class ScoredRule(ConformalRule):
    """Base class of conformal rules whose scores need no fitting."""

    @property
    def uses_draws(self) -> bool:
        """True if scores are randomised; otherwise sets are a function of the probabilities only."""
        return False

    @abstractmethod
    def scores(self, probabilities_NK: Floats, draws_N: Floats) -> Floats:
        """Returns nonconformity scores (N, K) of every class; `draws_N` are uniform in [0, 1), one per row."""

    def fit(self, probabilities: ArrayLike, labels: ArrayLike, *, seed: int) -> FittedSets:
        """See `ConformalRule.fit`."""
        return self.settle(*check_inputs(probabilities, labels), seed=seed)

    def settle(
        self,
        probabilities_NK: Floats,
        labels_N: Labels,
        *,
        seed: int,
        chosen: Mapping[str, float] | None = None,
    ) -> FittedSets:
        """Fits thresholds to validated rows, like `fit`; `chosen` are options of this rule that were fitted on other rows."""
        rows = np.arange(len(labels_N))
        of_true = self.scores(probabilities_NK, self.draws(seed, "calibrate", len(rows)))[rows, labels_N]
        num_classes = probabilities_NK.shape[1]
        # Without `by_class` all classes share the rows, and so the threshold.
        parts = [of_true[labels_N == k] if self.by_class else of_true for k in range(num_classes)]
        thresholds = np.array([threshold(part, self.alpha) for part in parts])
        counts = np.array([len(part) for part in parts], dtype=np.int64)
        if np.isinf(thresholds).any():
            self._warn(thresholds, counts)
        return FittedSets(
            rule=self, thresholds=thresholds, num_rows=counts, seed=seed, chosen=dict(chosen or {})
        )

    def draws(self, seed: int, purpose: str, num_rows: int) -> Floats:
        """Returns uniform random numbers (N,) from the stream of `purpose`; zeros if the rule is not randomised."""
        if not self.uses_draws:
            return np.zeros(num_rows)
        return np.random.default_rng(stream_seed(seed, f"calibrate/conformal/{purpose}")).random(num_rows)

    def _warn(self, thresholds: Floats, counts: Labels) -> None:
        min_rows = math.ceil(1 / Fraction(repr(float(self.alpha)))) - 1  # n with k <= n
        few = f"alpha {self.alpha} needs at least {min_rows} calibration rows"
        if self.by_class:
            classes = ", ".join(f"{k} ({counts[k]} rows)" for k in np.flatnonzero(np.isinf(thresholds)))
            logger.warning("%s: %s per class; these classes are in every set: %s", name_of(self), few, classes)
        else:
            logger.warning("%s: %s, but there are %d; every set has all classes", name_of(self), few, counts[0])


def checked_rows(probabilities: ArrayLike) -> Floats:
    """Returns probabilities (N, K) as float64. Raises `ValueError` for rows that are not distributions."""
    rows = np.asarray(probabilities, dtype=np.float64)
    # Labels of 0 are always valid, so only the rows are checked.
    return check_inputs(rows, np.zeros(len(rows) if rows.ndim else 0, dtype=np.int64))[0]
