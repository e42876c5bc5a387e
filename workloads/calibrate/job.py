"""The job of kind `calibrate`: calibrates the stored outputs of finished runs and measures their reliability.

It trains no network, and runs one only for OOD scores that need it, OOD sets, dropout passes or SWAG samples. Calibrators are
fitted on held-out rows, usually `calib`, and never evaluated on them.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from pruneyard.workloads.calibrate.calibrator import Calibrator, FittedCalibrator
from pruneyard.workloads.calibrate.curves import reliability_points, risk_points, score_points
from pruneyard.workloads.calibrate.evidence import Evidence
from pruneyard.workloads.calibrate.methods.none import Uncalibrated
from pruneyard.workloads.calibrate.ood_detection import (
    OOD,
    Sets,
    Witness,
    detection_rows,
    fitted_score,
    needs_network,
    scores_of,
    suffix_of,
)
from pruneyard.workloads.calibrate.outputs import Outputs, needed_splits, outputs_of, saw_val
from pruneyard.workloads.calibrate.prediction_sets import ConformalRule
from pruneyard.workloads.calibrate.sampled_members import (
    DropoutPasses,
    MemberSampler,
    WeightSamples,
    member_logits,
    member_outputs,
    own_splits,
)
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.calibrate.set_metrics import set_metrics
from pruneyard.workloads.data.dataset import Dataset, KnowsProbabilities, Source, Split
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, NOT_IDENTITY, renamed
from pruneyard.workloads.metrics.classification import (
    assess_calibration,
    class_probabilities,
    standard_metrics,
    true_calibration_error,
)
from pruneyard.workloads.metrics.detection import confidence_scores
from pruneyard.workloads.parents import FinishedRun, Predictions, Runs
from pruneyard.workloads.plugins import Plugin, name_of
from pruneyard.workloads.seeding import stream_seed
from pruneyard.workloads.workload import Context, CurvePoint, Metric, Outcome, Progress

__all__ = ["CalibrateJob"]

SMALLEST_LOG = -745.0  # logarithm of the smallest float64; replaces log 0 where scores must be finite
Named = dict[tuple[str, str], float]
"""Metrics by split and name."""


@dataclass(frozen=True, kw_only=True)
class CalibrateJob:
    """The resolved spec of a calibrate job.

    input: the runs to calibrate; several runs are averaged as an ensemble before calibration.
    fit: the split that calibrators and prediction sets are fitted on; the other of the two is evaluated in addition to `test`.
    sets: conformal rules; fitted on rows that their calibrator has not seen; they change no number of the calibrator itself.
    scores: OOD scores, in addition to the calibrated confidence, which is always evaluated.
    near, far: near and far OOD sets to evaluate the network on, in addition to those of its training run.
    choose_on: OOD sets on whose validation rows the options of scores are chosen; empty: options are used as given.
    dropout_passes: number of MC-dropout passes; above 0 their mean replaces the stored outputs and those on near and far.
    swag_samples: number of SWAG samples; above 0 the mean of the sampled networks replaces these outputs. Scores use the network
        itself. With several runs each contributes that many members (MultiSWAG, Wilson and Izmailov 2020, arXiv:2002.08791).
    keep_predictions: whether to store the calibrated log-probabilities.
    """

    input: Runs
    method: Annotated[Calibrator, Plugin("calibrate.methods")] = Uncalibrated()
    fit: Literal["calib", "val"] = "calib"
    num_bins: int = 15
    sets: tuple[Annotated[ConformalRule, Plugin("calibrate.conformal")], ...] = ()
    scores: tuple[Annotated[Score, Plugin("calibrate.scores")], ...] = ()
    near: tuple[Annotated[Source, Plugin("data.sources")], ...] = ()
    far: tuple[Annotated[Source, Plugin("data.sources")], ...] = ()
    choose_on: tuple[Annotated[Source, Plugin("data.sources")], ...] = ()
    seed: int = 0
    keep_predictions: bool = field(default=False, metadata=NOT_IDENTITY)
    dropout_passes: int = field(default=0, metadata=renamed("passes", NEUTRAL_BY_DEFAULT))
    swag_samples: int = field(default=0, metadata=renamed("samples", NEUTRAL_BY_DEFAULT))
    revision: ClassVar[int] = 2  # MCE counted bins of a single row before
    splits_of_inputs = staticmethod(needed_splits)

    def __post_init__(self) -> None:
        if self.num_bins < 1:
            raise ValueError(f"num_bins is {self.num_bins}; it must be 1 or more")
        if self.runs_network and len(self.input.runs) > 1:
            raise ValueError("input has several runs, but near, far and these scores need a single network; an ensemble has none")
        for name in ("dropout_passes", "swag_samples"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.dropout_passes and self.swag_samples:
            given = f"dropout_passes is {self.dropout_passes} and swag_samples is {self.swag_samples}"
            raise ValueError(f"{given}; set only one of them")
        if self.samples_members and self.scores and not (self.near or self.far):
            raise ValueError("scores with dropout_passes or swag_samples need an OOD set; set near or far")
        if self.choose_on and not self.scores:
            raise ValueError("choose_on is set, but there are no scores to choose options for; remove it")
        if needs_network(self.scores) and not (self.near or self.far):
            raise ValueError("these scores need features of OOD inputs; set near or far")
        for name, plugins in (("sets", self.sets), ("scores", self.scores)):
            names = [name_of(plugin) for plugin in plugins]
            if len(set(names)) < len(names):
                raise ValueError(f"{name} is {names}; each name must be unique because metric names contain it")

    @property
    def per_trial(self) -> int:
        """Number of jobs per scheduler trial: many, because a job takes milliseconds; fewer if it runs networks."""
        return 10 if self.reads_data_of_input else 200

    @property
    def runs_network(self) -> bool:
        """True if the job runs networks again."""
        return bool(self.near or self.far) or needs_network(self.scores)

    @property
    def reads_data_of_input(self) -> bool:
        """True if the job reads the data that its input runs were trained on."""
        return self.runs_network or self.samples_members

    @property
    def samples_members(self) -> bool:
        """True if outputs of sampled members (dropout passes or SWAG) replace the stored outputs."""
        return bool(self.dropout_passes or self.swag_samples)

    def run(self, context: Context) -> Iterator[Progress]:
        """Runs the job in one step; it has no checkpoint."""
        started = time.monotonic()
        runs = [context.open_run(artifact) for artifact in self.input.artifacts]
        stored, num_extra = outputs_of(runs)
        outputs = self._held_out(runs, stored)
        reruns = [_Rerun.of(self, run, context) for run in runs] if self.reads_data_of_input else []
        if self.samples_members:
            outputs = member_outputs([one.members(self, outputs, n) for n, one in enumerate(reruns)], reruns[0].splits(outputs))
        evaluation = _Evaluation(job=self, outputs=outputs, num_extra=num_extra, truth=_truth(runs, outputs, context))
        named, curves = evaluation.evaluate()
        choose_on = [context.load_data(source) for source in self.choose_on]
        more, more_curves = evaluation.evaluate_ood(reruns[0], choose_on) if reruns else evaluation.evaluate_stored_ood()
        named |= more
        elapsed = time.monotonic() - started
        yield Progress(
            step=1,
            num_steps=1,
            metrics=tuple(
                Metric(step=1, epoch=1.0, split=split, name=name, value=value, wall_s=elapsed)
                for (split, name), value in named.items()
                if math.isfinite(value)  # the NLL is infinite if a label has probability 0
            ),
            curves=(*curves, *more_curves),
            outcome=evaluation.outcome(elapsed),
        )

    def _held_out(self, runs: Sequence[FinishedRun], outputs: Mapping[str, Outputs]) -> Mapping[str, Outputs]:
        """Returns the outputs without val if a run's objective learned from it. Raises `ValueError` if `fit` is then val."""
        learned = [run.run_key for run in runs if saw_val(run)]
        if learned and self.fit == "val":
            raise ValueError(f"fit is val, but the objective of {learned[0]} learned from val during training; use calib")
        return {name: split for name, split in outputs.items() if name != "val"} if learned else outputs

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns (0.0, 0): the work of this kind is not counted in advance."""
        return 0.0, 0

    def check(self, data: Dataset | None) -> list[str]:
        """Returns no warnings: nothing can be checked before the input runs exist."""
        return []


@dataclass(frozen=True, kw_only=True)
class _Rerun:
    """An input run whose network is run again, on its own data and on OOD sets."""

    run: FinishedRun
    data: Dataset
    sets: Sets
    device: torch.device

    @classmethod
    def of(cls, job: CalibrateJob, run: FinishedRun, context: Context) -> "_Rerun":
        """Loads all data of the job."""
        data = run.training_data(context.load_data)
        return cls(run=run, data=data, sets=Sets.of(job.near, job.far, context.load_data, known=data), device=context.device)

    def splits(self, stored: Mapping[str, Outputs]) -> dict[str, Split]:
        """Returns the rows that the run predicted, and the OOD sets."""
        return own_splits(self.run, stored, self.data) | dict(self.sets.rows)

    def members(self, job: CalibrateJob, stored: Mapping[str, Outputs], number: int) -> dict[str, NDArray[np.floating]]:
        """Returns logits (M, N, C) by split of members sampled from this run, the `number`-th input of the job."""
        # The first run keeps the job's seed, so its members equal those of a job with this run alone.
        seed = stream_seed(job.seed, f"calibrate/run {number}") if number else job.seed
        sampler: MemberSampler = DropoutPasses(num=job.dropout_passes)
        if job.swag_samples:
            sampler = WeightSamples.of(self.run, job.swag_samples, data=self.data, device=self.device)
        return member_logits(self.run, sampler, self.splits(stored), seed=seed, device=self.device)


def _truth(runs: Sequence[FinishedRun], outputs: Mapping[str, Outputs], context: Context) -> NDArray[np.float64] | None:
    """Returns the true class probabilities (N, K) of the rows of test; None unless the data source knows them."""
    source = runs[0].source()
    if not isinstance(source, KnowsProbabilities) or "test" not in outputs:
        return None
    rows = context.load_data(source).test
    place = {row_id: number for number, row_id in enumerate(rows.row_ids.tolist())}
    images = rows.images[[place[row_id] for row_id in outputs["test"].row_ids.tolist()]]
    return source.probabilities(images)


def _log_probabilities(calibrator: FittedCalibrator, logits: np.ndarray) -> np.ndarray:
    return calibrator.log_probabilities(np.asarray(logits, dtype=np.float64))


@dataclass(kw_only=True)
class _Evaluation:
    """The outputs of one job and the calibrator fitted to them."""

    job: CalibrateJob
    outputs: Mapping[str, Outputs]
    num_extra: int
    truth: np.ndarray | None = None  # class probabilities (N, K) of the rows of test, where the data source knows them
    fitted: FittedCalibrator = field(init=False)

    def __post_init__(self) -> None:
        split = self._split(self.job.fit)
        self.fitted = self.job.method.fit(split.logits, split.labels, seed=self.job.seed)

    def _split(self, name: str) -> Outputs:
        if name not in self.outputs or not len(self.outputs[name]):
            raise ValueError(f"the input runs have no predictions of split {name}, only of {', '.join(self.outputs)}")
        return self.outputs[name]

    @cached_property
    def _for_sets(self) -> tuple[FittedCalibrator, np.ndarray]:
        """Returns the calibrator whose probabilities the conformal rules are fitted on, and the rows that they are fitted to.

        Rows that a calibrator was fitted to would void the guarantee of coverage. So where something was fitted, another
        calibrator is fitted to half of the rows, for the sets alone, and the rules get the other half; else they get all rows.
        """
        split = self._split(self.job.fit)
        # Nothing was fitted: there is only the number of classes.
        if set(self.fitted.tensors) == {"num_classes"}:
            return self.fitted, np.arange(len(split))
        order = np.random.default_rng(stream_seed(self.job.seed, "calibrate/halves")).permutation(len(split))
        own, rest = np.array_split(order, 2)
        return self.job.method.fit(split.logits[own], split.labels[own], seed=self.job.seed), rest

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Returns calibrated log-probabilities (N, C); -inf for a probability of 0."""
        return _log_probabilities(self.fitted, logits)

    def evaluate(self) -> tuple[Named, list[CurvePoint]]:
        """Returns metrics and curves of calibrated outputs on `test`, and metrics on the other held-out split."""
        other = {"calib": "val", "val": "calib"}[self.job.fit]
        named: Named = {("fit", name): value for name, value in self.fitted.numbers.items()}
        curves: list[CurvePoint] = []
        test = self._split("test")
        log_probabilities = self.calibrated(test.logits)
        found = assess_calibration(
            log_probabilities, test.labels, num_bins=self.job.num_bins, num_extra=self.num_extra, seed=self.job.seed
        )
        named |= {("test", name): value for name, value in found.metrics.items()}
        named |= {("test", name): float(values.mean()) for name, values in test.uncertainty.items()}
        if self.truth is not None and not self.num_extra:
            known = self._distributions(log_probabilities)
            error = true_calibration_error(known, self.truth, level="binned", num_bins=self.job.num_bins)
            named["test", "ece_true"] = error
        if other in self.outputs and len(held := self.outputs[other]):
            of_other = standard_metrics(self.calibrated(held.logits), held.labels, num_extra=self.num_extra)
            named |= {(other, name): value for name, value in of_other.items()}
        curves += reliability_points(found.diagram) + risk_points(found.risk)
        for rule in self.job.sets:
            of_rule, points = self._sets(rule)
            named |= of_rule
            curves += points
        return named, curves

    def _sets(self, rule: ConformalRule) -> tuple[Named, list[CurvePoint]]:
        """Fits a conformal rule on rows that its calibrator has not seen and evaluates it on `test`."""
        split, test = self._split(self.job.fit), self._split("test")
        calibrator, rows = self._for_sets
        held = self._distributions(_log_probabilities(calibrator, split.logits[rows]))
        fitted = rule.fit(held, split.labels[rows], seed=self.job.seed)
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
        # Log-probabilities are valid logits: their softmax gives back the probabilities.
        known = class_probabilities(log_probabilities, num_extra=self.num_extra)
        return np.asarray(known / known.sum(axis=1, keepdims=True))

    def evaluate_stored_ood(self) -> tuple[Named, list[CurvePoint]]:
        """Returns detection metrics of the OOD sets of the training run, of which only logits are stored."""
        unknown = {name: split.logits for name, split in self.outputs.items() if name.startswith(f"{OOD}.")}
        if not unknown:
            return {}, []
        split = self._split("test")
        test = split.logits
        named, curves = self._confidence(test, unknown, split.labels, near=frozenset(), far=frozenset())
        evidence = {name: Evidence(logits=logits, num_extra=self.num_extra) for name, logits in unknown.items()}
        for score in self.job.scores:
            rule = score.fit(None, seed=self.job.seed)
            found = scores_of(rule, Evidence(logits=test, num_extra=self.num_extra), evidence)
            correct = self._correct(test, split.labels)
            named |= detection_rows(found, correct, near=frozenset(), far=frozenset(), suffix=suffix_of(score))
            curves += score_points(found, suffix_of(score))
        return named, curves

    def evaluate_ood(self, rerun: _Rerun, choose_on: Sequence[Dataset]) -> tuple[Named, list[CurvePoint]]:
        """Returns detection metrics of the near and far sets, by running the network on them and on its own data."""
        sets = rerun.sets
        if not sets.rows:
            return {}, []
        witness = Witness(network=rerun.run.network(), data=rerun.data, num_extra=self.num_extra)
        known, unknown = witness.of(rerun.data.test), {name: witness.of(rows) for name, rows in sets.rows.items()}
        logits = {name: evidence.logits for name, evidence in {"test": known, **unknown}.items()}
        if self.job.samples_members:
            # Only the confidence is that of the members; scores below use the network itself.
            logits = {name: self.outputs[name].logits for name in logits}
        test = logits.pop("test")
        labels = known.class_labels
        named, curves = self._confidence(test, logits, labels, near=sets.near, far=sets.far)
        for score in self.job.scores:
            rule = fitted_score(score, witness, choose_on, seed=self.job.seed)
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

    def outcome(self, elapsed: float) -> Outcome:
        """Returns the fitted calibrator as an artifact, and predictions if `keep_predictions` is set."""
        kept = self.outputs if self.job.keep_predictions else {}
        return Outcome(
            predictions={
                name: Predictions(
                    row_ids=split.row_ids,
                    labels=split.labels,
                    logits=np.maximum(self.calibrated(split.logits), SMALLEST_LOG).astype(np.float32),
                )
                for name, split in kept.items()
            },
            weights={},
            masks={},
            files={"calibrator.safetensors": safetensors.numpy.save(dict(self.fitted.tensors))},
            num_parameters=None,
            num_active=None,
            train_flops=None,
            train_s=elapsed,
            peak_memory_bytes=None,
            num_extra=self.num_extra,
        )
