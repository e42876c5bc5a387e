"""Accuracy and calibration of predicted probabilities: the public functions of this folder, and the metrics that runs report.

`probabilities.py` describes valid inputs, and `binning.py` how confidences are binned. Fractions lie in [0, 1], NLL is in nats.
Invalid input raises `ValueError`; no function returns a number for it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruneyard.workloads.metrics.binned_errors import (
    adaptive_calibration_error,
    classwise_calibration_error,
    classwise_calibration_errors,
    debiased_calibration_error,
    debiased_squared_calibration_error,
    debiased_squared_gap,
    expected_calibration_error,
    largest_gap,
    maximum_calibration_error,
    mean_gap,
    reliability,
    reliability_of_logits,
    root_mean_square_calibration_error,
    root_mean_square_gap,
)
from pruneyard.workloads.metrics.binning import (
    Binning,
    Reliability,
    bin_by_confidence,
    bin_index,
    equal_mass_index,
)
from pruneyard.workloads.metrics.by_class import TOP_K, ClassCounts, class_counts, is_among_top
from pruneyard.workloads.metrics.class_bins import ClassBins, ClassBinsBuilder
from pruneyard.workloads.metrics.probabilities import (
    SUM_TOLERANCE,
    Floats,
    Labels,
    TopLabel,
    as_array,
    check_inputs,
    check_labels,
    check_not_probabilities,
    check_probabilities,
    class_probabilities,
    softmax,
    softmax_chunks,
)
from pruneyard.workloads.metrics.proper_scores import (
    BrierParts,
    accuracy,
    brier_decomposition,
    brier_parts,
    brier_score,
    negative_log_likelihood,
    squared_distances,
    top_label_brier,
)
from pruneyard.workloads.metrics.resampling import (
    NoiseFloor,
    noise_floor,
    noise_floor_of_confidences,
)
from pruneyard.workloads.metrics.selective import (
    RiskCoverage,
    augrc,
    aurc,
    e_aurc,
    optimal_aurc,
    risk_coverage,
    risk_coverage_of_top_labels,
)
from pruneyard.workloads.metrics.truth import true_calibration_error
from pruneyard.workloads.metrics.unbinned_errors import (
    balance,
    balance_score,
    kolmogorov_smirnov_error,
    kolmogorov_smirnov_gap,
    smooth_calibration_error,
    smooth_gap,
)

__all__ = [
    "CALIBRATION_METRICS",
    "MANY_CLASSES_METRICS",
    "ROBUST_METRICS",
    "STANDARD_METRICS",
    "SUM_TOLERANCE",
    "TRUTH_METRICS",
    "Binning",
    "BrierParts",
    "CalibrationReport",
    "ClassCounts",
    "Floats",
    "Labels",
    "NoiseFloor",
    "Reliability",
    "RiskCoverage",
    "TopLabel",
    "accuracy",
    "adaptive_calibration_error",
    "all_metrics",
    "assess_calibration",
    "augrc",
    "aurc",
    "balance_score",
    "bin_index",
    "brier_decomposition",
    "brier_score",
    "check_inputs",
    "check_probabilities",
    "class_counts",
    "class_probabilities",
    "classwise_calibration_error",
    "classwise_calibration_errors",
    "debiased_calibration_error",
    "debiased_squared_calibration_error",
    "e_aurc",
    "equal_mass_index",
    "expected_calibration_error",
    "kolmogorov_smirnov_error",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "noise_floor",
    "optimal_aurc",
    "reliability",
    "reliability_of_logits",
    "risk_coverage",
    "root_mean_square_calibration_error",
    "smooth_calibration_error",
    "softmax",
    "standard_metrics",
    "top_label_brier",
    "true_calibration_error",
]

STANDARD_METRICS = {
    "accuracy": "share of rows whose largest probability is the label's",
    "nll": "mean negative log-likelihood of the label, in nats",
    "ece": "expected calibration error of the largest probability, 15 right-closed bins of equal width",
    "ece_adaptive": "expected calibration error with 15 bins of equal numbers of rows",
    "brier": "squared distance to the one-hot label, summed over classes, mean over rows",
    "balanced_accuracy": "mean over classes of the accuracy on the rows of the class",
    "macro_f1": "mean over classes of F1, the harmonic mean of precision and recall",
    "accuracy_of_worst_class": "smallest accuracy on the rows of a class",
}

MANY_CLASSES_METRICS = {
    "top5_accuracy": "share of rows whose label is among the five largest probabilities; reported for more than five classes",
}

CALIBRATION_METRICS = {
    "ece_floor": "mean ECE of a perfectly calibrated network with the same confidences and bins; an ECE below it is only noise",
    "ece_floor_95": "ECE that such a network exceeds in 5% of cases; an ECE below it is no evidence of miscalibration",
    "ece_smooth": "smooth calibration error (smECE): Gaussian kernel in confidence, its width equal to the error it gives",
    "ece_classwise": "ECE of every class's probability over all rows, mean over the classes that have rows",
    "rmsce": "root mean square of the gaps between accuracy and confidence over the bins of ECE",
    "rmsce_debiased": "RMSCE after subtraction of the part that is expected by chance; 0 if that part is larger",
    "mce": "largest gap between accuracy and confidence among the bins of ECE that contain at least two rows",
    "ks": "largest running sum of confidence minus correctness by rising confidence, divided by the number of rows",
    "balance": "accuracy minus mean confidence; negative if the network is over-confident",
    "empty_bins": "number of bins of ECE that contain no row",
    "brier_top_label": "mean squared distance of the confidence from correctness, the Brier score of the predicted class alone",
    "brier_reliability": "part of the Brier score due to miscalibration, over bins of each class's probability",
    "brier_resolution": "reduction of the Brier score by forecasts that differ between rows, over the same bins",
    "brier_uncertainty": "Brier score of always predicting the class frequencies",
    "aurc": "mean share of errors among the k most confident rows, over all k; averaged over the orders of equal confidences",
    "e_aurc": "AURC minus its value when all errors are ranked last",
    "augrc": "mean over all k of the errors among the k most confident rows, divided by the number of rows",
}

TRUTH_METRICS = {
    "ece_true": "ECE with true class probabilities in place of labels, free of chance; where the data source knows them (oracle)",
}

ROBUST_METRICS = {
    "robust_accuracy": "share of rows correct without and with every attack within eps; reported if `robust.restarts` is set",
}


@dataclass(frozen=True, kw_only=True)
class _Assessment:
    """The common inputs of all metrics, from one pass over N rows of outputs."""

    given: TopLabel  # in the order of the rows
    top: TopLabel  # by rising confidence
    nll: float  # mean of -log p_label
    brier: float  # mean squared distance to the one-hot label
    classes: ClassCounts
    among_top: float | None  # share of rows whose label is among the `TOP_K` largest; None if there are no more classes

    def standard(self, bins: Reliability) -> dict[str, float]:
        # From the sorted rows: bins of equal mass need the order.
        adaptive = bin_by_confidence(self.top, num_bins=len(bins.count), binning="equal_mass")
        return {
            "accuracy": float(self.top.correct.mean()),
            "nll": self.nll,
            "ece": mean_gap(bins),
            "ece_adaptive": mean_gap(adaptive),
            "brier": self.brier,
            **self.classes.metrics(),
            **({} if self.among_top is None else {"top5_accuracy": self.among_top}),
        }


def standard_metrics(logits: ArrayLike, labels: ArrayLike, *, num_extra: int = 0) -> dict[str, float]:
    """Returns all of `STANDARD_METRICS` for `logits: (N, K + num_extra)` with 15 bins; every evaluation reports them.

    With more than five classes, `MANY_CLASSES_METRICS` are there too.
    Labels lie in [0, K). The Brier score sums over the K classes; NLL is that of the full softmax.
    """
    assessed, _ = _assess(logits, labels, num_extra=num_extra, class_bins=None)
    return assessed.standard(bin_by_confidence(assessed.top, num_bins=15))


def all_metrics(
    logits: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, num_extra: int = 0, seed: int = 0
) -> dict[str, float]:
    """Returns all of `STANDARD_METRICS` and `CALIBRATION_METRICS` for `logits: (N, K + num_extra)` and labels `(N,)` in [0, K).

    All metrics with bins use `num_bins` of them; `seed` determines the 100 samples of the noise floor.
    """
    return assess_calibration(logits, labels, num_bins=num_bins, num_extra=num_extra, seed=seed).metrics


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """All metrics, the reliability diagram as by `reliability_of_logits`, and the risk-coverage curve."""

    metrics: dict[str, float]
    diagram: Reliability
    risk: RiskCoverage


def assess_calibration(
    logits: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, num_extra: int = 0, seed: int = 0
) -> CalibrationReport:
    """Returns the metrics of `all_metrics` and the curves behind them, from one pass over the outputs and one sort."""
    assessed, by_class = _assess(logits, labels, num_extra=num_extra, class_bins=num_bins)
    assert by_class is not None
    top = assessed.top
    bins, risk = bin_by_confidence(top, num_bins=num_bins), risk_coverage_of_top_labels(top)
    parts = brier_parts(by_class, assessed.brier)
    floor = noise_floor_of_confidences(top.confidence, num_bins=num_bins, seed=seed)
    metrics = assessed.standard(bins) | {
        "ece_floor": floor.mean,
        "ece_floor_95": floor.quantile(0.95),
        "ece_smooth": smooth_gap(top),
        "ece_classwise": float(np.nanmean(by_class.errors)),
        "rmsce": root_mean_square_gap(bins),
        "rmsce_debiased": max(debiased_squared_gap(bins), 0.0) ** 0.5,
        # A single row is right or wrong, so its gap is large whatever the calibration.
        "mce": largest_gap(bins, min_count=2) if bins.count.max() > 1 else float("nan"),
        "ks": kolmogorov_smirnov_gap(top),
        "balance": balance(top),
        "empty_bins": float(bins.num_empty),
        "brier_top_label": top_label_brier(top),
        "brier_reliability": parts.reliability,
        "brier_resolution": parts.resolution,
        "brier_uncertainty": parts.uncertainty,
        "aurc": risk.area,
        "e_aurc": risk.excess_area,
        "augrc": risk.joint_area,
    }
    # The diagram uses the rows in their given order, like `reliability_of_logits`, so both round in the same way.
    return CalibrationReport(metrics=metrics, diagram=bin_by_confidence(assessed.given, num_bins=num_bins), risk=risk)


def _assess(
    logits: ArrayLike, labels: ArrayLike, *, num_extra: int, class_bins: int | None
) -> tuple[_Assessment, ClassBins | None]:
    """Returns the common inputs of all metrics, and the bins of classes if `class_bins` is given, from one pass.

    Rows are sorted by rising confidence once, so that metrics that need sorted rows do not sort again.
    """
    logits_NC = as_array(logits)
    builder = None if class_bins is None else ClassBinsBuilder(num_bins=class_bins)
    labels_N: Labels = np.zeros(0, dtype=np.int64)
    parts: list[tuple[Floats, ...]] = []
    classes: list[Labels] = []
    tops: list[NDArray[np.bool_]] = []
    num_classes = 0
    for chunk in softmax_chunks(logits_NC, num_extra=num_extra):
        # Checked here and not before the loop, because `softmax_chunks` has now validated the shape and K is known.
        if chunk.rows.start == 0:
            check_not_probabilities(logits_NC)
            num_classes = chunk.probabilities.shape[1]
            labels_N = check_labels(labels, (len(logits_NC), num_classes))
        chunk_labels = labels_N[chunk.rows]
        row = np.arange(len(chunk_labels))
        at_label = chunk.probabilities[row, chunk_labels]
        # From the logits: the probability of the label may round to 0, whose logarithm is infinite.
        log_loss = chunk.log_total - logits_NC[chunk.rows][row, chunk_labels]
        distance = squared_distances(chunk.probabilities, chunk_labels)
        is_top = is_among_top(chunk.probabilities, chunk_labels) if chunk.probabilities.shape[1] > TOP_K else None
        tops += [] if is_top is None else [is_top]
        classes.append(chunk.predicted.astype(np.int64, copy=False))
        parts.append((chunk.confidence, log_loss, distance, at_label))
        if builder is not None:
            builder.add(chunk.probabilities)
    confidence, log_loss, distance, at_label = (np.concatenate(each) for each in zip(*parts, strict=True))
    predicted = np.concatenate(classes)
    given = TopLabel(confidence=confidence, correct=predicted == labels_N)
    assessed = _Assessment(
        given=given,
        top=given.ascending(),
        nll=float(log_loss.mean()),
        brier=float(distance.mean()),
        classes=ClassCounts.of(predicted, labels_N, num_classes=num_classes),
        among_top=float(np.concatenate(tops).mean()) if tops else None,
    )
    return assessed, None if builder is None else builder.build(labels_N, at_label)
