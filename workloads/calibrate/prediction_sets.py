"""What a conformal rule is: options before it has seen calibration rows, and another type after, which gives sets of classes.

A rule gives every class of a row a nonconformity score; a set holds the classes whose score is at most a threshold, the k-th
smallest score of the true classes of n calibration rows, k = ceil((n + 1)(1 - alpha)), or infinity where k > n. If calibration
rows and new ones are exchangeable, the true class is in the set with probability at least 1 - alpha, for every n. Nothing
else may have been fitted on the calibration rows: not the network, and not a temperature.

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
    """k = ceil((n + 1)(1 - alpha)), exactly: alpha counts as the decimal that it prints as."""
    return math.ceil((num_rows + 1) * (1 - Fraction(repr(float(alpha)))))


def threshold(scores: Floats, alpha: float) -> float:
    """The k-th smallest of `scores: (n,)`, an order statistic and no interpolation; infinity where there are fewer than k."""
    rank = rank_of_threshold(len(scores), alpha)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else float("inf")


@dataclass(frozen=True, kw_only=True)
class FittedSets:
    """Thresholds of a rule, fitted to calibration rows.

    thresholds: (K,), all the same unless each class has its own; num_rows: (K,) calibration rows that each was fitted to.
    seed: of the draws at prediction, which are others than those at calibration. chosen: options that were chosen by fitting, as
    `rule` has them.
    """

    rule: "ScoredRule"
    thresholds: Floats
    num_rows: Labels
    seed: int
    chosen: Mapping[str, float]

    @property
    def tensors(self) -> Mapping[str, NDArray[np.generic]]:
        """Everything that was fitted, by name, but for what `numbers` holds."""
        return {"thresholds": self.thresholds, "num_rows": self.num_rows}

    @property
    def numbers(self) -> Mapping[str, float]:
        """What a table should show, all finite: options chosen by fitting, classes without a finite threshold, the threshold if
        there is one for all classes."""
        infinite = np.isinf(self.thresholds)
        shown = {**self.chosen, "infinite_thresholds": float(infinite.sum())}
        return (
            shown if self.rule.by_class or infinite[0] else {**shown, "threshold": float(self.thresholds[0])}
        )

    def predict(self, probabilities: ArrayLike) -> Sets:
        """Sets (M, K) of `probabilities: (M, K)`, True for the classes in them; a set may be empty.

        The same rows in the same order give the same sets. Raises `ValueError` for rows that are no distributions over the K
        classes.
        """
        rows = checked_rows(probabilities)
        if rows.shape[1] != len(self.thresholds):
            raise ValueError(
                f"probabilities are of {rows.shape[1]} classes; sets were fitted to {len(self.thresholds)}"
            )
        return self.rule.scores(rows, self.rule.draws(self.seed, "predict", len(rows))) <= self.thresholds


@dataclass(frozen=True, kw_only=True)
class ConformalRule(ABC):
    """A plug-in of the family: a frozen dataclass of options."""

    is_nested: ClassVar[bool] = True  # whether a smaller alpha never takes a class out of a set

    alpha: float = 0.1  # the true class is missed at most so often
    by_class: bool = False  # a threshold for every class, so that each is covered; needs rows of every class

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}; it must lie in (0, 1)")

    @abstractmethod
    def fit(self, probabilities: ArrayLike, labels: ArrayLike, *, seed: int) -> FittedSets:
        """Fits to `probabilities: (N, K)` and `labels: (N,)` of rows that nothing was trained or fitted on.

        `seed` decides all draws. A class with too few rows gets an infinite threshold, so that it is in every set, and is named
        in a warning. Raises `ValueError` for rows that are no distributions, and for labels out of range.
        """


@dataclass(frozen=True, kw_only=True)
class ScoredRule(ConformalRule):
    """A rule whose scores need no fitting of their own."""

    @property
    def uses_draws(self) -> bool:
        """Whether scores depend on draws; without, sets are a function of the probabilities alone."""
        return False

    @abstractmethod
    def scores(self, probabilities_NK: Floats, draws_N: Floats) -> Floats:
        """Nonconformity (N, K) of every class of every row; `draws_N` are uniform in [0, 1), one for each row."""

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
        """As `fit`, of checked rows; `chosen` are options of this rule that were fitted on other rows."""
        rows = np.arange(len(labels_N))
        of_true = self.scores(probabilities_NK, self.draws(seed, "calibrate", len(rows)))[rows, labels_N]
        num_classes = probabilities_NK.shape[1]
        parts = [of_true[labels_N == k] if self.by_class else of_true for k in range(num_classes)]
        thresholds = np.array([threshold(part, self.alpha) for part in parts])
        counts = np.array([len(part) for part in parts], dtype=np.int64)
        if np.isinf(thresholds).any():
            self._warn(thresholds, counts)
        return FittedSets(
            rule=self, thresholds=thresholds, num_rows=counts, seed=seed, chosen=dict(chosen or {})
        )

    def draws(self, seed: int, purpose: str, num_rows: int) -> Floats:
        """(N,) of the stream of that purpose; zeros where the rule does not use them."""
        if not self.uses_draws:
            return np.zeros(num_rows)
        return np.random.default_rng(stream_seed(seed, f"calibrate/conformal/{purpose}")).random(num_rows)

    def _warn(self, thresholds: Floats, counts: Labels) -> None:
        fewest = math.ceil(1 / Fraction(repr(float(self.alpha)))) - 1  # n with k <= n
        few = f"alpha {self.alpha} needs {fewest} calibration rows"
        if self.by_class:
            classes = ", ".join(f"{k} ({counts[k]} rows)" for k in np.flatnonzero(np.isinf(thresholds)))
            logger.warning("%s: %s; these classes are in every set: %s", name_of(self), few, classes)
        else:
            logger.warning("%s: %s, there are %d; every set holds all classes", name_of(self), few, counts[0])


def checked_rows(probabilities: ArrayLike) -> Floats:
    """(N, K) float64. Raises `ValueError` for rows that are no distributions."""
    rows = np.asarray(probabilities, dtype=np.float64)
    return check_inputs(rows, np.zeros(len(rows) if rows.ndim else 0, dtype=np.int64))[0]
