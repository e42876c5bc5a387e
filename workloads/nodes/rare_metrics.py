"""What a standard table hides where one of two classes is rare: its recall, and calibration group by group, in float64.

Every function takes `probabilities: (N, 2)`, rows that sum to 1, and `labels: (N,)`, 1 = minority. The minority and the majority
are told apart in two ways. By *predicted* class a calibrated network has no gap. By *true* class it has one: among the nodes that
are minority, confidence is compared with recall, which is what CALIRARE's code reports, and no network that is unsure closes it.
"""

from numpy.typing import ArrayLike

from pruneyard.workloads.metrics.classification import (
    Floats,
    Labels,
    adaptive_calibration_error,
    check_inputs,
    expected_calibration_error,
)

NUM_BINS = (
    20  # as in CALIRARE's code; far too many for some dozens of nodes, whose noise alone makes an error
)
GROUPS = ("majority", "minority")

RARE_METRICS = {
    "recall_minority": "share of the minority's nodes that are predicted so",
    "precision_minority": "share of the nodes predicted minority that are it; absent where there are none",
    "macro_f1": "mean of both classes' F1",
    "ece_20": "ece with 20 bins",
    "ace_20": "ece with 20 bins of equally many nodes",
    "gap_predicted_minority": "accuracy less confidence of the nodes predicted minority; negative: over-confident",
    "gap_predicted_majority": "the same of the nodes predicted majority",
    "gap_true_minority": "recall less confidence of the minority's nodes; not 0 for a calibrated network",
    "gap_true_majority": "the same of the majority's nodes",
    "ece_20_predicted_minority": "ece_20 of the nodes predicted minority; likewise ace_20, majority and true in their places",
    "eice": "mean distance between a node's confidence and the middle of its jackknife interval for the predicted class",
    "eice_released": "the same as CALIRARE's code has it: uncut intervals, always of the minority's probability",
    "interval_coverage": "share of nodes whose label, 1 for the minority, lies in their jackknife interval",
    "interval_width": "mean width of jackknife intervals, cut to [0, 1]",
}


def rare_metrics(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """All of `RARE_METRICS` but those of intervals; what has no nodes to be computed from is left out."""
    p, y = check_inputs(probabilities, labels)
    if p.shape[1] != 2:
        raise ValueError(f"probabilities have {p.shape[1]} columns; they must have 2, majority and minority")
    predicted = p.argmax(axis=1)
    confidence, correct = p.max(axis=1), predicted == y
    found = _detection(predicted, y)
    found |= _errors(p, y, "")
    for way, group_of in (("predicted", predicted), ("true", y)):
        for group, name in enumerate(GROUPS):
            rows = group_of == group
            if rows.any():
                found[f"gap_{way}_{name}"] = float((correct[rows] - confidence[rows]).mean())
                found |= _errors(p[rows], y[rows], f"_{way}_{name}")
    return found


def _errors(p: Floats, y: Labels, suffix: str) -> dict[str, float]:
    return {
        f"ece_20{suffix}": expected_calibration_error(p, y, num_bins=NUM_BINS),
        f"ace_20{suffix}": adaptive_calibration_error(p, y, num_bins=NUM_BINS),
    }


def _detection(predicted: Labels, y: Labels) -> dict[str, float]:
    right = [int(((predicted == group) & (y == group)).sum()) for group in range(2)]
    named = [int((predicted == group).sum()) for group in range(2)]
    there = [int((y == group).sum()) for group in range(2)]
    scores = [2 * r / (n + t) if n + t else 0.0 for r, n, t in zip(right, named, there, strict=True)]
    found = {"macro_f1": sum(scores) / 2}
    if there[1]:
        found["recall_minority"] = right[1] / there[1]
    if named[1]:
        found["precision_minority"] = right[1] / named[1]
    return found
