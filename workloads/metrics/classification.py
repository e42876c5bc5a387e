"""Accuracy and calibration of predicted probabilities: the public names of all measures, and those that runs report.

What input must be is said in `probabilities.py`, how confidences are binned in `binning.py`. Fractions lie in [0, 1], NLL is
in nats. Bad input raises `ValueError`; no function returns a number for it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

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
from pruneyard.workloads.metrics.binning import Binning, Reliability, bin_index, binned, equal_mass_index
from pruneyard.workloads.metrics.class_bins import ClassBins, ClassBinsFilling
from pruneyard.workloads.metrics.probabilities import (
    SUM_TOLERANCE,
    Floats,
    Labels,
    TopLabel,
    checked,
    checked_labels,
    checked_probabilities,
    chunks,
    known_probabilities,
    softmax,
)
from pruneyard.workloads.metrics.proper_scores import (
    BrierParts,
    accuracy,
    brier_decomposition,
    brier_parts,
    brier_score,
    negative_log_likelihood,
    squared_distances,
    top_label_brier_decomposition,
)
from pruneyard.workloads.metrics.resampling import (
    Interval,
    NoiseFloor,
    bootstrap_interval,
    noise_floor,
    noise_floor_of,
)
from pruneyard.workloads.metrics.selective import (
    RiskCoverage,
    augrc,
    aurc,
    e_aurc,
    optimal_aurc,
    risk_coverage,
    risk_coverage_of,
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
    "ROBUST_METRICS",
    "STANDARD_METRICS",
    "SUM_TOLERANCE",
    "Binning",
    "BrierParts",
    "Floats",
    "Interval",
    "Judgement",
    "Labels",
    "NoiseFloor",
    "Reliability",
    "RiskCoverage",
    "TopLabel",
    "accuracy",
    "adaptive_calibration_error",
    "all_metrics",
    "augrc",
    "aurc",
    "balance_score",
    "bin_index",
    "bootstrap_interval",
    "brier_decomposition",
    "brier_score",
    "checked",
    "checked_probabilities",
    "classwise_calibration_error",
    "classwise_calibration_errors",
    "debiased_calibration_error",
    "debiased_squared_calibration_error",
    "e_aurc",
    "equal_mass_index",
    "expected_calibration_error",
    "judgement",
    "known_probabilities",
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
    "top_label_brier_decomposition",
    "true_calibration_error",
]


STANDARD_METRICS = {
    "accuracy": "share of rows whose largest probability is the label's",
    "nll": "mean negative log-likelihood of the label, in nats",
    "ece": "expected calibration error of the largest probability, 15 right-closed bins of equal width",
    "ece_adaptive": "the same with 15 bins of equal numbers of rows",
    "brier": "squared distance to the one-hot label, summed over classes, mean over rows",
}


CALIBRATION_METRICS = {
    "ece_floor": "mean ECE of a perfectly calibrated network with the same confidences and bins: below it, ECE says nothing",
    "ece_smooth": "smooth calibration error (smECE): Gaussian kernel in confidence, its width equal to the error it gives",
    "ece_classwise": "ECE of every class's probability over all rows, mean over the classes that have rows",
    "rmsce": "root mean square of the gaps between accuracy and confidence over the bins of ECE",
    "rmsce_debiased": "the same less the part that chance makes, 0 where chance makes more than there is",
    "mce": "largest gap between accuracy and confidence of any bin of ECE that holds rows",
    "ks": "largest running sum of confidence less correctness by rising confidence, over the number of rows",
    "balance": "accuracy less mean confidence: negative where over-confident",
    "empty_bins": "how many bins of ECE hold no row",
    "brier_reliability": "part of the Brier score due to miscalibration, over bins of each class's probability",
    "brier_resolution": "part by which forecasts that tell rows apart lower the Brier score, over the same bins",
    "brier_uncertainty": "Brier score of always forecasting how frequent the classes are",
    "aurc": "mean share of errors among the k most confident rows, over all k; equal confidences in the mean of their orders",
    "e_aurc": "the same less its value when all errors are ranked last",
    "augrc": "mean over all k of the errors among the k most confident rows, over the number of rows",
}


ROBUST_METRICS = {
    "robust_accuracy": "share of rows right as they are and after every attack within eps, where `robust.restarts` asks for it",
}


@dataclass(frozen=True, kw_only=True)
class _Assessment:
    """Of N rows of outputs: confidence and correctness as given and by rising confidence, mean -log p_label, mean squared
    distance to the one-hot label.
    """

    given: TopLabel
    top: TopLabel
    nll: float
    brier: float

    def standard(self, bins: Reliability) -> dict[str, float]:
        adaptive = binned(self.top, num_bins=len(bins.count), binning="equal_mass")
        return {
            "accuracy": float(self.top.correct.mean()),
            "nll": self.nll,
            "ece": mean_gap(bins),
            "ece_adaptive": mean_gap(adaptive),
            "brier": self.brier,
        }


def standard_metrics(logits: ArrayLike, labels: ArrayLike, *, num_extra: int = 0) -> dict[str, float]:
    """All of `STANDARD_METRICS` of `logits: (N, K + num_extra)`, 15 bins: what every evaluation reports.

    Labels lie in [0, K). The Brier score sums over the K classes; NLL is that of the full softmax.
    """
    assessed, _ = _assess(logits, labels, num_extra=num_extra, class_bins=None)
    return assessed.standard(binned(assessed.top, num_bins=15))


def all_metrics(
    logits: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, num_extra: int = 0, seed: int = 0
) -> dict[str, float]:
    """All of `STANDARD_METRICS` and `CALIBRATION_METRICS` of `logits: (N, K + num_extra)` and labels `(N,)` in [0, K).

    Bins by confidence or class are `num_bins` everywhere; `seed` decides the 100 draws of the noise floor.
    """
    return judgement(logits, labels, num_bins=num_bins, num_extra=num_extra, seed=seed).metrics


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All metrics, the diagram that `reliability_of_logits` gives, and the risk-coverage curve."""

    metrics: dict[str, float]
    diagram: Reliability
    risk: RiskCoverage


def judgement(
    logits: ArrayLike, labels: ArrayLike, *, num_bins: int = 15, num_extra: int = 0, seed: int = 0
) -> Judgement:
    """What `all_metrics` gives, and the curves behind it, from one pass over the outputs and one sorting of them."""
    assessed, by_class = _assess(logits, labels, num_extra=num_extra, class_bins=num_bins)
    assert by_class is not None
    top = assessed.top
    bins, risk = binned(top, num_bins=num_bins), risk_coverage_of(top)
    parts = brier_parts(by_class, assessed.brier)
    metrics = assessed.standard(bins) | {
        "ece_floor": noise_floor_of(top.confidence, num_bins=num_bins, seed=seed).mean,
        "ece_smooth": smooth_gap(top),
        "ece_classwise": float(np.nanmean(by_class.errors)),
        "rmsce": root_mean_square_gap(bins),
        "rmsce_debiased": max(debiased_squared_gap(bins), 0.0) ** 0.5,
        "mce": largest_gap(bins),
        "ks": kolmogorov_smirnov_gap(top),
        "balance": balance(top),
        "empty_bins": float(bins.num_empty),
        "brier_reliability": parts.reliability,
        "brier_resolution": parts.resolution,
        "brier_uncertainty": parts.uncertainty,
        "aurc": risk.area,
        "e_aurc": risk.excess_area,
        "augrc": risk.joint_area,
    }
    return Judgement(metrics=metrics, diagram=binned(assessed.given, num_bins=num_bins), risk=risk)


def _assess(
    logits: ArrayLike, labels: ArrayLike, *, num_extra: int, class_bins: int | None
) -> tuple[_Assessment, ClassBins | None]:
    """One pass over the outputs; rows by rising confidence, so that measures that sort find them sorted."""
    logits_NC = np.asarray(logits)
    filling = None if class_bins is None else ClassBinsFilling(num_bins=class_bins)
    labels_N: Labels = np.zeros(0, dtype=np.int64)
    parts: list[tuple[Floats, ...]] = []
    for chunk in chunks(logits_NC, num_extra=num_extra):
        if chunk.rows.start == 0:
            labels_N = checked_labels(labels, (len(logits_NC), chunk.probabilities.shape[1]))
        of_rows = labels_N[chunk.rows]
        row = np.arange(len(of_rows))
        at_label = chunk.probabilities[row, of_rows]
        log_loss = chunk.log_total - logits_NC[chunk.rows][row, of_rows]
        distance = squared_distances(chunk.probabilities, of_rows)
        parts.append((chunk.confidence, chunk.predicted == of_rows, log_loss, distance, at_label))
        if filling is not None:
            filling.add(chunk.probabilities)
    confidence, correct, log_loss, distance, at_label = (
        np.concatenate(each) for each in zip(*parts, strict=True)
    )
    given = TopLabel(confidence=confidence, correct=correct)
    assessed = _Assessment(
        given=given, top=given.ascending(), nll=float(log_loss.mean()), brier=float(distance.mean())
    )
    return assessed, None if filling is None else filling.finished(labels_N, at_label)
