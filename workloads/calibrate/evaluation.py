"""A calibrator fitted to outputs by split, and everything that is measured with it: metrics, curves, sets and OOD detection.

It knows neither specs nor runs, so jobs and the functions for Python give the same numbers. Dimensions: N rows, C outputs,
K classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pruneyard.workloads.calibrate.calibrator import SMALLEST_LOG, Calibrator, FittedCalibrator
from pruneyard.workloads.calibrate.curves import reliability_points, risk_points, score_points
from pruneyard.workloads.calibrate.evidence import Evidence
from pruneyard.workloads.calibrate.ood_detection import (
    OOD,
    Witness,
    detection_rows,
    fitted_score,
    scores_of,
    suffix_of,
)
from pruneyard.workloads.calibrate.outputs import Outputs
from pruneyard.workloads.calibrate.prediction_sets import ConformalRule
from pruneyard.workloads.calibrate.rerun import Rerun
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.calibrate.set_metrics import set_metrics
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.metrics.binary import binary_metrics, positive_reliability
from pruneyard.workloads.metrics.classification import (
    CalibrationReport,
    assess_calibration,
    class_probabilities,
    standard_metrics,
    true_calibration_error,
)
from pruneyard.workloads.metrics.detection import confidence_scores
from pruneyard.workloads.metrics.max_logits import max_logit_spread
from pruneyard.workloads.plugins import name_of
from pruneyard.workloads.seeding import stream_seed
from pruneyard.workloads.workload import CurvePoint

Named = dict[tuple[str, str], float]
"""Metrics by split and name."""


def _log_probabilities(calibrator: FittedCalibrator, logits: np.ndarray) -> np.ndarray:
    return calibrator.log_probabilities(np.asarray(logits, dtype=np.float64))


def distributions(log_probabilities: np.ndarray, *, num_extra: int = 0) -> np.ndarray:
    """Returns class probabilities (N, K) without extra outputs, scaled to sum to 1."""
    # Log-probabilities are valid logits: their softmax gives back the probabilities.
    known = class_probabilities(log_probabilities, num_extra=num_extra)
    return np.asarray(known / known.sum(axis=1, keepdims=True))


def metrics_of(
    log_probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    num_bins: int,
    num_extra: int,
    seed: int,
    positive: int | None,
) -> tuple[dict[str, float], CalibrationReport]:
    """Returns the metrics of test rows by name, with those of the positive class if there is one, and the curves behind them."""
    found = assess_calibration(log_probabilities, labels, num_bins=num_bins, num_extra=num_extra, seed=seed)
    if positive is None:
        return found.metrics, found
    return found.metrics | metrics_of_positive(log_probabilities, labels, positive, num_bins=num_bins), found


def metrics_of_positive(
    log_probabilities: np.ndarray, labels: np.ndarray, positive: int, *, num_bins: int
) -> dict[str, float]:
    """Returns the metrics of the positive class's probability, of two classes."""
    return binary_metrics(_of_class(log_probabilities, positive), labels == positive, num_bins=num_bins)


def _of_class(log_probabilities: np.ndarray, number: int) -> np.ndarray:
    """Returns the probability of one of two classes, (N,)."""
    return distributions(log_probabilities, num_extra=log_probabilities.shape[1] - 2)[:, number]


@dataclass(kw_only=True)
class Evaluation:
    """A calibrator, fitted on construction to the split `fit` of the outputs. It is never evaluated on that split.

    sets: conformal rules; fitted on rows that their calibrator has not seen; they change no number of the calibrator itself.
    scores: OOD scores, in addition to the calibrated confidence, which is always evaluated.
    num_extra: outputs beyond the classes, the last columns of all logits.
    positive: the positive class of two, whose probability gets metrics of its own; None for none.
    truth: class probabilities (N, K) of the rows of test, where the data source knows them.
    """

    outputs: Mapping[str, Outputs]
    method: Calibrator
    fit: str = "calib"
    num_bins: int = 15
    sets: Sequence[ConformalRule] = ()
    scores: Sequence[Score] = ()
    seed: int = 0
    num_extra: int = 0
    positive: int | None = None
    truth: np.ndarray | None = None
    fitted: FittedCalibrator = field(init=False)

    def __post_init__(self) -> None:
        split = self._split(self.fit)
        self.fitted = self.method.fit(split.logits, split.labels, seed=self.seed)

    def _split(self, name: str) -> Outputs:
        if name not in self.outputs or not len(self.outputs[name]):
            raise ValueError(f"the input has no predictions of split {name}, only of {', '.join(self.outputs)}")
        return self.outputs[name]

    @cached_property
    def _for_sets(self) -> tuple[FittedCalibrator, np.ndarray]:
        """Returns the calibrator whose probabilities the conformal rules are fitted on, and the rows that they are fitted to.

        Rows that a calibrator was fitted to would void the guarantee of coverage. So where something was fitted, another
        calibrator is fitted to half of the rows, for the sets alone, and the rules get the other half; else they get all rows.
        """
        split = self._split(self.fit)
        # Nothing was fitted: there is only the number of classes.
        if set(self.fitted.tensors) == {"num_classes"}:
            return self.fitted, np.arange(len(split))
        order = np.random.default_rng(stream_seed(self.seed, "calibrate/halves")).permutation(len(split))
        own, rest = np.array_split(order, 2)
        return self.method.fit(split.logits[own], split.labels[own], seed=self.seed), rest

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Returns calibrated log-probabilities (N, C); -inf for a probability of 0."""
        return _log_probabilities(self.fitted, logits)

    def evaluate(self) -> tuple[Named, list[CurvePoint]]:
        """Returns metrics and curves of calibrated outputs on `test`, and metrics on the other held-out split."""
        other = {"calib": "val", "val": "calib"}[self.fit]
        named: Named = {("fit", name): value for name, value in self.fitted.numbers.items()}
        curves: list[CurvePoint] = []
        test = self._split("test")
        log_probabilities = self.calibrated(test.logits)
        of_test, found = metrics_of(
            log_probabilities,
            test.labels,
            num_bins=self.num_bins,
            num_extra=self.num_extra,
            seed=self.seed,
            positive=self.positive,
        )
        named |= {("test", name): value for name, value in of_test.items()}
        named |= {("test", name): float(values.mean()) for name, values in test.uncertainty.items()}
        if math.isfinite(spread := max_logit_spread(test.logits, num_extra=self.num_extra)):
            named["test", "max_logit_spread"] = spread
        if self.truth is not None and not self.num_extra:
            known = self._distributions(log_probabilities)
            error = true_calibration_error(known, self.truth, level="binned", num_bins=self.num_bins)
            named["test", "ece_true"] = error
        if other in self.outputs and len(held := self.outputs[other]):
            of_held = self.calibrated(held.logits)
            of_other = standard_metrics(of_held, held.labels, num_extra=self.num_extra)
            if self.positive is not None:
                of_other |= metrics_of_positive(of_held, held.labels, self.positive, num_bins=self.num_bins)
            named |= {(other, name): value for name, value in of_other.items()}
        curves += reliability_points(found.diagram) + risk_points(found.risk)
        if self.positive is not None:
            probabilities, is_positive = _of_class(log_probabilities, self.positive), test.labels == self.positive
            bins = positive_reliability(probabilities, is_positive, num_bins=self.num_bins)
            curves += reliability_points(bins, name="reliability_positive")
        for rule in self.sets:
            of_rule, points = self._sets(rule)
            named |= of_rule
            curves += points
        return named, curves

    def _sets(self, rule: ConformalRule) -> tuple[Named, list[CurvePoint]]:
        """Fits a conformal rule on rows that its calibrator has not seen and evaluates it on `test`."""
        split, test = self._split(self.fit), self._split("test")
        calibrator, rows = self._for_sets
        held = self._distributions(_log_probabilities(calibrator, split.logits[rows]))
        fitted = rule.fit(held, split.labels[rows], seed=self.seed)
        sets = fitted.predict(self._distributions(_log_probabilities(calibrator, test.logits)))
        named = {(f"sets@{name_of(rule)}", n): v for n, v in set_metrics(sets, test.labels, alpha=rule.alpha).items()}
        named |= {(f"sets@{name_of(rule)}", n): v for n, v in fitted.numbers.items()}
        sizes = np.bincount(sets.sum(axis=1), minlength=sets.shape[1] + 1)
        points = [
            CurvePoint(name="set_size", step=1, key=name_of(rule), x=float(size), y=count / len(sets), count=int(count))
            for size, count in enumerate(sizes)
            if count
        ]
        return named, points

    def _distributions(self, log_probabilities: np.ndarray) -> np.ndarray:
        """Returns class probabilities (N, K) without extra outputs, scaled to sum to 1."""
        return distributions(log_probabilities, num_extra=self.num_extra)

    def evaluate_stored_ood(self) -> tuple[Named, list[CurvePoint]]:
        """Returns detection metrics of the OOD sets of the training run, of which only logits are stored."""
        unknown = {name: split.logits for name, split in self.outputs.items() if name.startswith(f"{OOD}.")}
        if not unknown:
            return {}, []
        split = self._split("test")
        test = split.logits
        named, curves = self._confidence(test, unknown, split.labels, near=frozenset(), far=frozenset())
        evidence = {name: Evidence(logits=logits, num_extra=self.num_extra) for name, logits in unknown.items()}
        for score in self.scores:
            rule = score.fit(None, seed=self.seed)
            found = scores_of(rule, Evidence(logits=test, num_extra=self.num_extra), evidence)
            correct = self._correct(test, split.labels)
            named |= detection_rows(found, correct, near=frozenset(), far=frozenset(), suffix=suffix_of(score))
            curves += score_points(found, suffix_of(score))
        return named, curves

    def evaluate_ood(self, rerun: Rerun, choose_on: Sequence[Dataset], *, members: bool) -> tuple[Named, list[CurvePoint]]:
        """Returns detection metrics of the near and far sets, by running the network on them and on its own data."""
        sets = rerun.sets
        if not sets.rows:
            return {}, []
        witness = Witness(network=rerun.run.network(), data=rerun.data, num_extra=self.num_extra)
        known, unknown = witness.of(rerun.data.test), {name: witness.of(rows) for name, rows in sets.rows.items()}
        logits = {name: evidence.logits for name, evidence in {"test": known, **unknown}.items()}
        if members:
            # Only the confidence is that of the members; scores below use the network itself.
            logits = {name: self.outputs[name].logits for name in logits}
        test = logits.pop("test")
        labels = known.class_labels
        named, curves = self._confidence(test, logits, labels, near=sets.near, far=sets.far)
        for score in self.scores:
            rule = fitted_score(score, witness, choose_on, seed=self.seed)
            found = scores_of(rule, known, unknown)
            correct = self._correct(known.logits, labels)
            named |= detection_rows(found, correct, near=sets.near, far=sets.far, suffix=suffix_of(score))
            if (accuracy := rule.accuracy(known)) is not None:
                named["test" + suffix_of(score), "accuracy"] = accuracy
            named |= {(f"fit{suffix_of(score)}", name): value for name, value in rule.numbers.items()}
            curves += score_points(found, suffix_of(score))
        return named, curves

    def _correct(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns whether the largest class logit is that of the label, `(N,)`."""
        classes = logits[:, : logits.shape[1] - self.num_extra]
        return np.asarray(classes.argmax(axis=1) == labels)

    def _confidence(
        self,
        test: np.ndarray,
        unknown: Mapping[str, np.ndarray],
        labels: np.ndarray,
        *,
        near: frozenset[str],
        far: frozenset[str],
    ) -> tuple[Named, list[CurvePoint]]:
        """Returns detection metrics of the calibrated confidence as an OOD score."""
        scores = {
            name: confidence_scores(np.maximum(self.calibrated(logits), SMALLEST_LOG), num_extra=self.num_extra)
            for name, logits in {"test": test, **unknown}.items()
        }
        # Of the calibrated probabilities: some calibrators change the prediction.
        correct = self._correct(self.calibrated(test), labels)
        return detection_rows(scores, correct, near=near, far=far), score_points(scores, "")
