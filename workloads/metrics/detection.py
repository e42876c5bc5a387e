"""How well confidence tells known inputs from unknown ones, in float64; ties are counted exactly.

Known (in-distribution) inputs are the positive class and a higher score means "known". The score is the largest
probability of a known class; every function depends on the order of the scores alone, so its logarithm serves as well.
Scores are `known: (N,)` and `unknown: (M,)`, finite, both with rows. Bad input raises `ValueError`.

Reference: Hendrycks and Gimpel, A baseline for detecting misclassified and out-of-distribution examples (arXiv:1610.02136).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

Floats = NDArray[np.float64]


def confidence_scores(logits: ArrayLike, *, num_extra: int = 0) -> Floats:
    """Logarithm of the largest known-class probability of `logits: (N, K + num_extra)`; the softmax is over all outputs.

    As log-odds of the largest against all others it tells confidences apart that are all 1 as probabilities.
    """
    logits_NC = np.asarray(logits, dtype=np.float64)
    if logits_NC.ndim != 2 or num_extra < 0 or logits_NC.shape[1] - num_extra < 2:
        raise ValueError(f"logits have shape {logits_NC.shape}; it must be (N, K + {num_extra}) with K >= 2")
    if not np.isfinite(logits_NC).all():
        raise ValueError("logits are not finite; they must be")
    rows = np.arange(len(logits_NC))
    largest_N = logits_NC[:, : logits_NC.shape[1] - num_extra].argmax(axis=1)
    others_NC = logits_NC - logits_NC[rows, largest_N][:, None]
    others_NC[rows, largest_N] = -np.inf
    return np.asarray(-np.logaddexp(0.0, logsumexp(others_NC, axis=1)))


def auroc(known: ArrayLike, unknown: ArrayLike) -> float:
    """Area under the ROC curve: how often a known input scores above an unknown one, ties counting half. 0.5 is chance.

    Reference: Hanley and McNeil, Radiology 143 (1982).
    """
    known_N, unknown_M = _checked(known, unknown)
    ordered = np.sort(unknown_M)
    below, up_to = (np.searchsorted(ordered, known_N, side=side) for side in ("left", "right"))
    return float((below.sum() + up_to.sum()) / (2 * len(known_N) * len(unknown_M)))


def aupr_in(known: ArrayLike, unknown: ArrayLike) -> float:
    """Average precision with known inputs as positives: the sum over thresholds of precision times the rise of recall.

    A sum of steps, as scikit-learn has it: the trapezoid rule draws straight lines between the points of the curve, which
    no classifier attains and which flatter a detector with many ties (Davis and Goadrich, ICML 2006).
    """
    return _average_precision(*_checked(known, unknown))


def aupr_out(known: ArrayLike, unknown: ArrayLike) -> float:
    """Average precision with unknown inputs as positives and the score negated; see `aupr_in`."""
    known_N, unknown_M = _checked(known, unknown)
    return _average_precision(-unknown_M, -known_N)


def fpr95(known: ArrayLike, unknown: ArrayLike) -> float:
    """Share of unknown inputs accepted at the largest threshold that accepts at least 95% of the known ones.

    A score equal to the threshold is accepted. Known inputs are the positives here, as in ODIN (arXiv:1706.02690); where
    unknown ones are, the measure of the same name is another number.
    """
    known_N, unknown_M = _checked(known, unknown)
    num_accepted = -(-19 * len(known_N) // 20)  # 95%, rounded up, without rounding errors
    threshold = np.sort(known_N)[len(known_N) - num_accepted]
    return float((unknown_M >= threshold).mean())


def fpr95_out(known: ArrayLike, unknown: ArrayLike) -> float:
    """Share of known inputs rejected at the smallest threshold that rejects at least 95% of the unknown ones.

    A score equal to the threshold is rejected. Unknown inputs are the positives, as in OpenOOD v1.5 (arXiv:2306.09301); it is
    `fpr95` with the roles swapped and the scores negated, and the two must not stand in one column.
    """
    known_N, unknown_M = _checked(known, unknown)
    return fpr95(-unknown_M, -known_N)


def correct_rate_at(known: ArrayLike, correct: ArrayLike, unknown: ArrayLike, *, accepted: float) -> float:
    """CCR@f: share of all known inputs that are classified right and accepted where at most `accepted` of the unknown ones are.

    The threshold is the lowest that lets no more than that share, in (0, 1), of the unknown inputs score above it; a known
    input must score above it, too. `correct: (N,)` are booleans. Reference: Dhamija et al. (NeurIPS 2018, arXiv:1811.04110).
    """
    known_N, unknown_M = _checked(known, unknown)
    correct_N = np.asarray(correct)
    if correct_N.dtype != np.bool_ or correct_N.shape != known_N.shape:
        raise ValueError(f"correct is {correct_N.dtype} {correct_N.shape}; it must be bool {known_N.shape}")
    if not 0 < accepted < 1:
        raise ValueError(f"accepted is {accepted}; it must lie in (0, 1)")
    num_accepted = int(accepted * len(unknown_M) + 1e-9)  # 0.1 of 30 is 3
    threshold = np.sort(unknown_M)[len(unknown_M) - 1 - num_accepted]
    return float((correct_N & (known_N > threshold)).mean())


DETECTION_METRICS = {
    "auroc": "how often a known input is given more confidence than an unknown one, ties counting half; 0.5 is chance",
    "aupr_in": "average precision of confidence with known inputs as positives",
    "aupr_out": "average precision of confidence with unknown inputs as positives",
    "fpr95": "share of unknown inputs accepted at the threshold that accepts 95% of the known ones",
    "fpr95_out": "share of known inputs rejected at the threshold that rejects 95% of the unknown ones: unknown are positives",
}


def detection_metrics(known: ArrayLike, unknown: ArrayLike) -> dict[str, float]:
    """All of `DETECTION_METRICS`."""
    return {
        "auroc": auroc(known, unknown),
        "aupr_in": aupr_in(known, unknown),
        "aupr_out": aupr_out(known, unknown),
        "fpr95": fpr95(known, unknown),
        "fpr95_out": fpr95_out(known, unknown),
    }


def _checked(known: ArrayLike, unknown: ArrayLike) -> tuple[Floats, Floats]:
    arrays = []
    for name, given in (("known", known), ("unknown", unknown)):
        scores = np.asarray(given, dtype=np.float64)
        if scores.ndim != 1 or len(scores) == 0:
            raise ValueError(f"{name} scores have shape {scores.shape}; it must be (N,) with N >= 1")
        if not np.isfinite(scores).all():
            row = int((~np.isfinite(scores)).argmax())
            raise ValueError(f"row {row} of the {name} scores is {scores[row]}; it must be finite")
        arrays.append(scores)
    return arrays[0], arrays[1]


def _average_precision(positive_N: Floats, negative_M: Floats) -> float:
    """One threshold per distinct score of a positive: elsewhere recall does not rise."""
    thresholds, rises = np.unique(positive_N, return_counts=True)
    num_true = np.cumsum(rises[::-1])[::-1]  # positives at or above each threshold
    num_false = len(negative_M) - np.searchsorted(np.sort(negative_M), thresholds, side="left")
    return float(np.sum(rises * (num_true / (num_true + num_false))) / len(positive_N))
