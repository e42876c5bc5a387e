"""Puts logits on a common scale before a calibrator is fitted, so that neither its fit nor its penalty depends on their unit.

Cosine logits have a spread of 0.03, those of a saturated network one of 1,000. A penalty for leaving the identity, stated in
the units of the logits, forbids the large factors that the first need and is nothing to the second, and a fit that starts at
the identity may start hundreds of nats above its minimum. Divided by the temperature of temperature scaling, logits of any
scale are the same numbers, and the identity is temperature scaling.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from pruneyard.workloads.calibrate.calibrator import (
    Arrays,
    Fitted,
    Floats,
    Labels,
    PostHoc,
    checked_rows,
    in_one_order,
    ranked,
)
from pruneyard.workloads.calibrate.temperature_fit import fit_temperature

NUM_FOLDS = 5
MANY_VALUES = 2_000_000  # logits from which on one fold is judged instead of five: the mean over so many rows is sharp enough

ROWS_PER_NUMBER = 10  # below it a warning: matrix scaling was seen to overfit there

log = logging.getLogger(__name__)

FittedTo = Callable[[Floats, Labels, float], Fitted]
"""Fits to rows on the common scale under a penalty of this strength."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedOnCommonScale(Fitted):
    """Holds the factor that puts logits on the common scale."""

    factor: Floats = field(default_factory=lambda: np.array(1.0))  # ()

    def log_probabilities(self, logits: ArrayLike) -> Floats:
        """See `FittedCalibrator.log_probabilities`."""
        return super().log_probabilities(np.asarray(logits, dtype=np.float64) * self.factor)


class OnCommonScale(PostHoc):
    """A calibrator whose `_fit` is given logits on the common scale."""

    revision: ClassVar[int] = 3  # 1: fits in the units of the logits; 2: rows without errors were made less confident

    def fit(self, logits: ArrayLike, labels: ArrayLike, *, seed: int) -> Fitted:
        """See `Calibrator.fit`."""
        logits_NC, labels_N = in_one_order(*checked_rows(logits, labels))
        factor = common_factor(logits_NC, labels_N)
        fitted = self._fit(logits_NC * factor, labels_N, seed=seed)
        assert isinstance(fitted, FittedOnCommonScale)
        # Set afterwards: the fits of the folds get logits on the common scale already, so their own factor stays 1.
        return replace(fitted, factor=np.array(factor))

    def restore(self, tensors: Arrays) -> Fitted:
        """See `Calibrator.restore`. Tensors of versions before the common scale have no factor; it is 1 there."""
        return super().restore({"factor": np.array(1.0), **tensors})


def common_factor(logits_NC: Floats, labels_N: Labels) -> float:
    """Returns the inverse of the temperature of least NLL; where there is none, of the mean gap to a row's largest logit.

    It is 1 where all labels have the largest logit, as the temperature is: the less confident network would be no identity.
    """
    found = fit_temperature(logits_NC, labels_N, warn=False)
    if found.at_bound <= 0:
        return 1 / found.temperature
    gap = float((logits_NC.max(axis=1, keepdims=True) - logits_NC).mean())
    return 1 / gap if gap > 0 else 1.0


def choose_penalty(candidates: Sequence[float], fit: FittedTo, logits_NC: Floats, labels_N: Labels) -> float:
    """Returns the candidate of least cross-validated NLL, the largest of equals.

    The folds are the same for rows in any order and for classes under any names. Where rows are too few to leave some out,
    the largest candidate is taken. No candidate is judged on rows that it was fitted to.
    """
    fold_N = _folds(logits_NC, labels_N)
    usable = [
        fold
        # A fold is skipped if the rows outside it have one label only, which no calibrator accepts.
        for fold in range(1 if logits_NC.size >= MANY_VALUES else NUM_FOLDS)
        if (fold_N == fold).any() and len(np.unique(labels_N[fold_N != fold])) > 1
    ]
    if not usable:
        return max(candidates)
    losses = [
        sum(_held_out_nll(fit, logits_NC, labels_N, fold_N == fold, strength) for fold in usable) for strength in candidates
    ]
    least = min(losses)
    return max(strength for strength, loss in zip(candidates, losses, strict=True) if loss <= least)


def _folds(logits_NC: Floats, labels_N: Labels) -> Labels:
    """Returns the fold of every row: rows are dealt out by how well they are told apart, so each fold has easy and hard ones."""
    sorted_NC, ranks_N = ranked(logits_NC, labels_N)
    # The last key of `lexsort` counts most: the rank of the label, then the largest, second and third logit. None of them
    # depends on the order of rows or on the numbers of classes.
    order = np.lexsort((*sorted_NC[:, 2::-1].T, ranks_N))
    fold_N = np.empty(len(labels_N), dtype=np.int64)
    fold_N[order] = np.arange(len(labels_N)) % NUM_FOLDS
    return fold_N


def _held_out_nll(fit: FittedTo, logits_NC: Floats, labels_N: Labels, held_N: np.ndarray, strength: float) -> float:
    """Returns the sum over held-out rows, in nats."""
    fitted = fit(logits_NC[~held_N], labels_N[~held_N], strength)
    log_MC = fitted.log_probabilities(logits_NC[held_N])
    return float(-log_MC[np.arange(len(log_MC)), labels_N[held_N]].sum())


def warn_of_few_rows(method: str, num_fitted: int, num_rows: int) -> None:
    """Logs a warning where rows are fewer than ten for every number that is fitted."""
    if num_rows < ROWS_PER_NUMBER * num_fitted:
        log.warning(
            "%s fits %d numbers to %d rows, fewer than %d rows each; compare it with temperature on other rows",
            method,
            num_fitted,
            num_rows,
            ROWS_PER_NUMBER,
        )
