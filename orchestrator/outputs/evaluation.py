"""Evaluates arrays of logits or probabilities: the metrics that a calibrate job without a calibrator reports."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pruneyard.orchestrator.errors import UsageError
from pruneyard.workloads.calibrate.evaluation import metrics_of
from pruneyard.workloads.calibrate.methods.none import Uncalibrated
from pruneyard.workloads.calibrate.user_outputs.assembled import (
    ArrayNames,
    CheckedRows,
    Positive,
    UserOutputs,
    checked_rows,
)
from pruneyard.workloads.metrics.max_logits import max_logit_spread


def evaluate(
    logits: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    *,
    probabilities: ArrayLike | None = None,
    num_bins: int = 15,
    positive: Positive = None,
) -> dict[str, float]:
    """Returns accuracy, NLL, Brier score, calibration errors and the other metrics of the split `test` by name, on all rows.

    logits, probabilities: one of the two, (N, C) numbers, which declares what they are; or (N,) scores of the positive class.
    labels: (N,) class numbers in [0, C). num_bins: of every metric with bins.
    positive: the positive class of a binary problem, 0 or 1, which adds metrics of its probability; 1 for scores (N,).

    The numbers are those of a calibrate job with method `none` on the same rows. A metric without a finite value is left out.
    Raises `UsageError` that names the array, the row and what is allowed.

    >>> import pruneyard
    >>> found = pruneyard.evaluate(probabilities=[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], labels=[0, 1, 1])
    >>> round(found["accuracy"], 3), round(found["brier"], 3)
    (0.667, 0.273)
    """
    if num_bins < 1:
        raise UsageError(f"num_bins is {num_bins}; it must be 1 or more")
    try:
        rows = rows_of_arrays(logits, probabilities, labels, positive=positive, one_class=True)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return metrics_on_test(rows.outputs(None), num_bins=num_bins)


def metrics_on_test(outputs: UserOutputs, *, num_bins: int) -> dict[str, float]:
    """Returns the finite metrics of the split `test` of outputs as they are."""
    test = outputs.splits["test"]
    plain = Uncalibrated().restore({"num_classes": np.array(test.logits.shape[1])})  # nothing is fitted
    found, _ = metrics_of(
        plain.log_probabilities(test.logits),
        test.labels,
        num_bins=num_bins,
        num_extra=outputs.num_extra,
        seed=0,
        positive=outputs.positive,
    )
    found = {**found, "max_logit_spread": max_logit_spread(test.logits, num_extra=outputs.num_extra)}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def rows_of_arrays(
    logits: ArrayLike | None, probabilities: ArrayLike | None, labels: ArrayLike | None, **settings: Any
) -> CheckedRows:
    """Returns the rows of arrays in memory. Raises `ValueError` unless one of logits and probabilities is given, and labels."""
    values = logits if probabilities is None else probabilities
    if values is None or (logits is not None and probabilities is not None):
        raise ValueError(f"logits and probabilities: {'none' if values is None else 'both'} given; give one of the two")
    if labels is None:
        raise ValueError("labels: none given; give a class number for each row")
    kind = "logits" if probabilities is None else "probabilities"
    return checked_rows(values, labels, kind=kind, names_of=ArrayNames(values=kind, label="labels", split="splits"), **settings)
