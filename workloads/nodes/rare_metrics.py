"""Metrics for a rare class: recall, precision and F1, and calibration per group, in float64.

Every function takes `probabilities: (N, 2)`, rows that sum to 1, and `labels: (N,)`, 1 = minority. Calibration is measured
per group in two ways. Grouped by *predicted* class, a calibrated network has no gap. Grouped by *true* class, it has one: for
nodes of the minority, confidence is compared with recall, as in CALIRARE's code, and an uncertain network cannot close that gap.
"""

from numpy.typing import ArrayLike

from pruneyard.workloads.metrics.classification import (
    Floats,
    Labels,
    adaptive_calibration_error,
    check_inputs,
    expected_calibration_error,
)

NUM_BINS = 20  # as in CALIRARE's code; too many for some dozens of nodes, where noise alone produces a large error
GROUPS = ("majority", "minority")

RARE_METRICS = {
    "recall_minority": "fraction of the minority nodes that are predicted as minority",
    "precision_minority": "fraction of the nodes predicted as minority that are; absent if there are none",
    "ece_20": "ECE with 20 bins",
    "ace_20": "ECE with 20 bins of equally many nodes",
    "gap_predicted_minority": "accuracy minus confidence of the nodes predicted as minority; negative: over-confident",
    "gap_predicted_majority": "accuracy minus confidence of the nodes predicted as majority",
    "gap_true_minority": "recall minus confidence of the minority nodes; not 0 for a calibrated network",
    "gap_true_majority": "recall minus confidence of the majority nodes",
    "ece_20_predicted_minority": "ece_20 of the nodes predicted as minority; likewise with ace_20, majority and true",
    "eice": "mean distance of a node's confidence to the centre of its jackknife interval for the predicted class",
    "eice_released": "EICE as in CALIRARE's code: unclipped intervals, always of the minority probability",
    "interval_coverage": "fraction of nodes whose label, 1 for the minority, lies in their jackknife interval",
    "interval_width": "mean width of jackknife intervals, clipped to [0, 1]",
}


def rare_metrics(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Returns all of `RARE_METRICS` except those of intervals; metrics of an empty group are left out.

    `macro_f1` is the mean over both classes, also where one of them has no nodes.
    """
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
    # F1 without precision, which is undefined for a class that is never predicted; F1 is 0 there.
    scores = [2 * r / (n + t) if n + t else 0.0 for r, n, t in zip(right, named, there, strict=True)]
    found = {"macro_f1": sum(scores) / 2}
    # A recall or precision of nothing is left out instead of being reported as 0.
    if there[1]:
        found["recall_minority"] = right[1] / there[1]
    if named[1]:
        found["precision_minority"] = right[1] / named[1]
    return found
