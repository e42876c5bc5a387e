"""Out-of-distribution (OOD) detection by confidence: how well scores separate in-distribution (ID) from OOD inputs.

ID inputs ("known") are the positive class, and a higher score means ID. The score is the largest probability of a known class.
Every function depends only on the order of the scores, so their logarithms give the same results. Scores are `known: (N,)` and
`unknown: (M,)`, finite and not empty. Invalid input raises `ValueError`. All is computed in float64, and ties count exactly.

Reference: Hendrycks and Gimpel, A baseline for detecting misclassified and out-of-distribution examples (arXiv:1610.02136).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def extra_probability(logits: ArrayLike, *, num_extra: int) -> dict[str, float]:
    """Returns the mean probability of the outputs beyond the classes, `p_unknown`, for `logits: (N, K + num_extra)`.

    Empty if there are no such outputs.
    """
    if not num_extra:
        return {}
    from scipy.special import log_softmax  # takes 0.1 s to import, and most networks do not need it

    return {"p_unknown": float(np.exp(log_softmax(np.asarray(logits, dtype=np.float64), axis=1))[:, -num_extra:].sum(1).mean())}


def confidence_scores(logits: ArrayLike, *, num_extra: int = 0) -> Floats:
    """Returns the logarithm of the largest class probability for `logits: (N, K + num_extra)`; the softmax is over all outputs.

    It is computed from the log-odds of the largest against all others, so it distinguishes confidences that round to 1.
    """
    logits_NC = np.asarray(logits, dtype=np.float64)
    if logits_NC.ndim != 2 or num_extra < 0 or logits_NC.shape[1] - num_extra < 2:
        raise ValueError(f"logits have shape {logits_NC.shape}; it must be (N, K + {num_extra}) with K >= 2")
    if not np.isfinite(logits_NC).all():
        raise ValueError("logits contain NaN or infinity; all must be finite")
    from scipy.special import logsumexp

    rows = np.arange(len(logits_NC))
    largest_N = logits_NC[:, : logits_NC.shape[1] - num_extra].argmax(axis=1)
    others_NC = logits_NC - logits_NC[rows, largest_N][:, None]
    # Leaves the largest class out of the sum over all others, extra outputs included.
    others_NC[rows, largest_N] = -np.inf
    return np.asarray(-np.logaddexp(0.0, logsumexp(others_NC, axis=1)))


def auroc(known: ArrayLike, unknown: ArrayLike) -> float:
    """Returns the area under the ROC curve: how often an ID input scores above an OOD input; ties count half, 0.5 is chance.

    Reference: Hanley and McNeil, Radiology 143 (1982).
    """
    known_N, unknown_M = _checked(known, unknown)
    ordered = np.sort(unknown_M)
    # Unknown scores below a known one, and those below or equal; the mean of both counts a tie as one half.
    below, up_to = (np.searchsorted(ordered, known_N, side=side) for side in ("left", "right"))
    return float((below.sum() + up_to.sum()) / (2 * len(known_N) * len(unknown_M)))


def aupr_in(known: ArrayLike, unknown: ArrayLike) -> float:
    """Returns average precision with ID inputs as positives: the sum over thresholds of precision times the rise of recall.

    This is a sum of steps, as in scikit-learn. The trapezoid rule would interpolate linearly between the points of the curve,
    which no classifier attains and which overestimates detectors with many ties (Davis and Goadrich, ICML 2006).
    """
    return _average_precision(*_checked(known, unknown))


def aupr_out(known: ArrayLike, unknown: ArrayLike) -> float:
    """Returns average precision with OOD inputs as positives and negated scores; see `aupr_in`."""
    known_N, unknown_M = _checked(known, unknown)
    # Negated, because the positives must have the larger scores.
    return _average_precision(-unknown_M, -known_N)


def fpr95(known: ArrayLike, unknown: ArrayLike) -> float:
    """Returns the share of OOD inputs accepted at the largest threshold that accepts at least 95% of the ID inputs.

    A score equal to the threshold is accepted. ID inputs are the positives, as in ODIN (arXiv:1706.02690). With OOD inputs as
    positives, the metric of the same name is a different number.
    """
    known_N, unknown_M = _checked(known, unknown)
    num_accepted = -(-19 * len(known_N) // 20)  # 95%, rounded up, without rounding errors
    # `num_accepted` scores are at or above this one; with ties there are more.
    threshold = np.sort(known_N)[len(known_N) - num_accepted]
    return float((unknown_M >= threshold).mean())


def fpr95_out(known: ArrayLike, unknown: ArrayLike) -> float:
    """Returns the share of ID inputs rejected at the smallest threshold that rejects at least 95% of the OOD inputs.

    A score equal to the threshold is rejected. OOD inputs are the positives, as in OpenOOD v1.5 (arXiv:2306.09301). This is
    `fpr95` with swapped roles and negated scores; the two must not be compared with each other.
    """
    known_N, unknown_M = _checked(known, unknown)
    return fpr95(-unknown_M, -known_N)


def correct_rate_at(known: ArrayLike, correct: ArrayLike, unknown: ArrayLike, *, accepted: float) -> float:
    """Returns CCR@f: the share of ID inputs that are correctly classified and accepted if at most `accepted` of OOD inputs are.

    The threshold is the lowest above which at most that share, in (0, 1), of the OOD inputs scores; an accepted ID input scores
    above it too. `correct: (N,)` are booleans. Reference: Dhamija et al. (NeurIPS 2018, arXiv:1811.04110).
    """
    known_N, unknown_M = _checked(known, unknown)
    correct_N = np.asarray(correct)
    if correct_N.dtype != np.bool_ or correct_N.shape != known_N.shape:
        raise ValueError(f"correct is {correct_N.dtype} {correct_N.shape}; it must be bool {known_N.shape}")
    if not 0 < accepted < 1:
        raise ValueError(f"accepted is {accepted}; it must lie in (0, 1)")
    num_accepted = int(accepted * len(unknown_M) + 1e-9)  # against rounding: a tenth of 30 must be 3
    # At most `num_accepted` scores lie strictly above this one, however many are equal to it.
    threshold = np.sort(unknown_M)[len(unknown_M) - 1 - num_accepted]
    return float((correct_N & (known_N > threshold)).mean())


DETECTION_METRICS = {
    "auroc": "how often an in-distribution input gets more confidence than an OOD input, ties count half; 0.5 is chance",
    "aupr_in": "average precision of confidence with in-distribution inputs as positives",
    "aupr_out": "average precision of confidence with OOD inputs as positives",
    "fpr95": "share of OOD inputs accepted at the threshold that accepts 95% of in-distribution inputs",
    "fpr95_out": "share of in-distribution inputs rejected at the threshold that rejects 95% of OOD inputs (the positives)",
}


def detection_metrics(known: ArrayLike, unknown: ArrayLike) -> dict[str, float]:
    """Returns all of `DETECTION_METRICS`."""
    return {
        "auroc": auroc(known, unknown),
        "aupr_in": aupr_in(known, unknown),
        "aupr_out": aupr_out(known, unknown),
        "fpr95": fpr95(known, unknown),
        "fpr95_out": fpr95_out(known, unknown),
    }


CORRECT_RATES = {"ccr_10": 0.1, "ccr_01": 0.01}
CORRECT_RATE_METRICS = {
    "ccr_10": "share of in-distribution inputs that are classified correctly and accepted where 10% of OOD inputs are accepted",
    "ccr_01": "the same where 1% of OOD inputs are accepted",
}


def correct_rates(known: ArrayLike, correct: ArrayLike, unknown: ArrayLike) -> dict[str, float]:
    """Returns all of `CORRECT_RATE_METRICS`; see `correct_rate_at`."""
    return {
        name: correct_rate_at(known, correct, unknown, accepted=accepted) for name, accepted in CORRECT_RATES.items()
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
    """Returns average precision, with one threshold per distinct score of a positive, as recall rises only there."""
    thresholds, rises = np.unique(positive_N, return_counts=True)
    num_true = np.cumsum(rises[::-1])[::-1]  # positives at or above each threshold
    # `left`: a negative that equals the threshold is accepted, like the positives.
    num_false = len(negative_M) - np.searchsorted(np.sort(negative_M), thresholds, side="left")
    return float(np.sum(rises * (num_true / (num_true + num_false))) / len(positive_N))
