"""A job of kind `calibrate`: takes the stored outputs of finished runs, calibrates them, and says how far they can be trusted.

No network is trained, and none is run unless a score of unknown inputs, a set of them, or passes or samples ask for it. What is
fitted is fitted on held-out rows, `calib` as a rule, and never judged on them.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from pruneyard.workloads.calibrate.calibrator import Calibrator, FittedCalibrator
from pruneyard.workloads.calibrate.evidence import Evidence
from pruneyard.workloads.calibrate.methods.none import Uncalibrated
from pruneyard.workloads.calibrate.outputs import Outputs, outputs_of, saw_val
from pruneyard.workloads.calibrate.prediction_sets import ConformalRule
from pruneyard.workloads.calibrate.redrawn import (
    Drawing,
    DropoutPasses,
    WeightDraws,
    members_of,
    own_splits,
    redrawn,
)
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.calibrate.set_metrics import set_metrics
from pruneyard.workloads.calibrate.unknown_inputs import (
    OOD,
    Sets,
    Witness,
    detection_rows,
    fitted_score,
    needs_network,
    scores_of,
    suffix_of,
)
from pruneyard.workloads.data.dataset import Dataset, Source, Split
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, NOT_IDENTITY
from pruneyard.workloads.metrics.binning import Reliability
from pruneyard.workloads.metrics.classification import (
    RiskCoverage,
    assess_calibration,
    class_probabilities,
    standard_metrics,
)
from pruneyard.workloads.metrics.detection import confidence_scores
from pruneyard.workloads.parents import FinishedRun, Predictions, Runs
from pruneyard.workloads.plugins import Plugin, name_of
from pruneyard.workloads.seeding import stream_seed
from pruneyard.workloads.workload import Context, CurvePoint, Metric, Outcome, Progress

__all__ = ["CalibrateJob"]

CURVE_POINTS = 50  # of a risk-coverage curve and of a histogram of scores
LEAST = -745.0  # logarithm of the smallest number: what stands for a probability of 0 where scores must be finite

Named = dict[tuple[str, str], float]
"""Metrics by split and name."""


@dataclass(frozen=True, kw_only=True)
class CalibrateJob:
    """Everything that may change a number.

    input: the runs; several are averaged as an ensemble and calibrated after that.
    fit: the split that calibrators and sets are fitted on; the other of the two is judged beside `test`.
    sets: conformal rules; where there are any, the calibrator is fitted on one half of the split and they on the other.
    scores: of unknown inputs, beside the calibrated confidence, which is always judged.
    near, far: unknown sets to show to the network, beside those that it was shown when it was trained.
    choose_on: unknown sets on whose validation rows the scores' options are chosen; empty: they are taken as given.
    passes: of MC dropout; above 0 the mean of so many takes the place of the stored outputs and of those on near and far.
    samples: of SWAG; above 0 the mean of so many networks drawn from the run's moments does. Scores stay the network's own.
        Of several runs each gives so many members (MultiSWAG, Wilson and Izmailov 2020, arXiv:2002.08791).
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
    passes: int = field(default=0, metadata=NEUTRAL_BY_DEFAULT)
    samples: int = field(default=0, metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        if self.num_bins < 1:
            raise ValueError(f"num_bins is {self.num_bins}; it must be 1 or more")
        if self.asks_network and len(self.input.runs) > 1:
            raise ValueError("input names several runs beside near, far or scores that run a network; an ensemble has none")
        for name in ("passes", "samples"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.passes and self.samples:
            raise ValueError(f"passes is {self.passes} beside samples {self.samples}; one of them must be left out")
        if self.redraws and self.scores and not (self.near or self.far):
            raise ValueError("scores are given beside passes or samples; near or far must name a set to score")
        if self.choose_on and not self.scores:
            raise ValueError("choose_on is given without scores; there is nothing to choose, so it must be left out")
        if needs_network(self.scores) and not (self.near or self.far):
            raise ValueError("scores need features of unknown inputs; near or far must name a set of them")
        for name, plugins in (("sets", self.sets), ("scores", self.scores)):
            names = [name_of(plugin) for plugin in plugins]
            if len(set(names)) < len(names):
                raise ValueError(f"{name} is {names}; each name must come once, since metrics are called by it")

    @property
    def per_trial(self) -> int:
        """Jobs that one trial of the scheduler takes, as each is a matter of milliseconds; fewer where networks are run."""
        return 10 if self.asks_network or self.redraws else 200

    @property
    def asks_network(self) -> bool:
        """Whether networks are run again."""
        return bool(self.near or self.far) or needs_network(self.scores)

    @property
    def redraws(self) -> bool:
        """Whether the stored outputs are replaced by those of members drawn from the run."""
        return bool(self.passes or self.samples)

    def run(self, context: Context) -> Iterator[Progress]:
        """One step; there is nothing to go on from."""
        started = time.monotonic()
        runs = [context.open_run(artifact) for artifact in self.input.artifacts]
        stored, num_extra = outputs_of(runs)
        outputs = self._held_out(runs, stored)
        again = [_Again.of(self, run, context) for run in runs] if self.asks_network or self.redraws else []
        if self.redraws:
            members = [one.members(self, outputs, number) for number, one in enumerate(again)]
            outputs = redrawn(members, again[0].splits(outputs))
        work = _Work(job=self, outputs=outputs, num_extra=num_extra)
        named, curves = work.judged()
        choose_on = [context.load_data(source) for source in self.choose_on]
        more, more_curves = work.shown(again[0], choose_on) if again else work.stored_unknown()
        named |= more
        elapsed = time.monotonic() - started
        yield Progress(
            step=1,
            num_steps=1,
            metrics=tuple(
                Metric(step=1, epoch=1.0, split=split, name=name, value=value, wall_s=elapsed)
                for (split, name), value in named.items()
                if math.isfinite(value)  # a probability of 0 at a label: its price has no number
            ),
            curves=(*curves, *more_curves),
            outcome=work.outcome(elapsed),
        )

    def _held_out(self, runs: Sequence[FinishedRun], outputs: Mapping[str, Outputs]) -> Mapping[str, Outputs]:
        """The same without val where a run has learned from it. Raises `ValueError` where that is what to fit on."""
        learned = [run.run_key for run in runs if saw_val(run)]
        if learned and self.fit == "val":
            raise ValueError(f"fit is val, from which the objective of {learned[0]} learned in training; it must be calib")
        return {name: split for name, split in outputs.items() if name != "val"} if learned else outputs

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns (0.0, 0): the work of this kind is not counted in advance."""
        return 0.0, 0

    def check(self, data: Dataset | None) -> list[str]:
        """Nothing can be tried before the runs are there."""
        return []


@dataclass(frozen=True, kw_only=True)
class _Again:
    """A run whose network is shown rows once more: its own, and unknown sets."""

    run: FinishedRun
    data: Dataset
    sets: Sets
    device: torch.device

    @classmethod
    def of(cls, job: CalibrateJob, run: FinishedRun, context: Context) -> "_Again":
        """With all data of the job loaded."""
        data = context.load_data(run.source())
        sets = Sets.of(job.near, job.far, context.load_data, known=data)
        return cls(run=run, data=data, sets=sets, device=context.device)

    def splits(self, stored: Mapping[str, Outputs]) -> dict[str, Split]:
        """The rows that the run predicted, and the unknown sets."""
        return own_splits(self.run, stored, self.data) | dict(self.sets.rows)

    def members(self, job: CalibrateJob, stored: Mapping[str, Outputs], number: int) -> dict[str, NDArray[np.floating]]:
        """What members drawn from the run, the number-th of the job's, say of all of these: logits (M, N, C)."""
        seed = stream_seed(job.seed, f"calibrate/run {number}") if number else job.seed
        drawing: Drawing = DropoutPasses(num=job.passes)
        if job.samples:
            drawing = WeightDraws.of(self.run, job.samples, data=self.data, device=self.device)
        return members_of(self.run, drawing, self.splits(stored), seed=seed, device=self.device)


@dataclass(kw_only=True)
class _Work:
    """One job's arrays, and what was fitted to them."""

    job: CalibrateJob
    outputs: Mapping[str, Outputs]
    num_extra: int
    fitted: FittedCalibrator = field(init=False)

    def __post_init__(self) -> None:
        split = self._split(self.job.fit)
        rows = self._halves(len(split))[0] if self.job.sets else np.arange(len(split))
        self.fitted = self.job.method.fit(split.logits[rows], split.labels[rows], seed=self.job.seed)

    def _split(self, name: str) -> Outputs:
        if name not in self.outputs or not len(self.outputs[name]):
            raise ValueError(f"fit is {name}; the runs left no predictions of it, only of {', '.join(self.outputs)}")
        return self.outputs[name]

    def _halves(self, num_rows: int) -> list[np.ndarray]:
        """Rows for the calibrator and rows for the sets: none is used for both, or coverage would not be what is said."""
        order = np.random.default_rng(stream_seed(self.job.seed, "calibrate/halves")).permutation(num_rows)
        return np.array_split(order, 2)

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Log-probabilities (N, C); -inf for a probability of 0."""
        return self.fitted.log_probabilities(np.asarray(logits, dtype=np.float64))

    def judged(self) -> tuple[Named, list[CurvePoint]]:
        """What calibrated outputs are worth on `test`, and on the other held-out split."""
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
        if other in self.outputs and len(held := self.outputs[other]):
            of_other = standard_metrics(self.calibrated(held.logits), held.labels, num_extra=self.num_extra)
            named |= {(other, name): value for name, value in of_other.items()}
        curves += reliability_points(found.diagram) + risk_points(found.risk)
        for rule in self.job.sets:
            of_rule, points = self._sets(rule, log_probabilities)
            named |= of_rule
            curves += points
        return named, curves

    def _sets(self, rule: ConformalRule, log_probabilities: np.ndarray) -> tuple[Named, list[CurvePoint]]:
        """Fitted on the half that the calibrator has not seen, judged on `test`."""
        split, test = self._split(self.job.fit), self._split("test")
        rows = self._halves(len(split))[1]
        held = self._distributions(self.calibrated(split.logits[rows]))
        fitted = rule.fit(held, split.labels[rows], seed=self.job.seed)
        sets = fitted.predict(self._distributions(log_probabilities))
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
        """Probabilities (N, K) of the classes alone, scaled to sum to 1."""
        known = class_probabilities(log_probabilities, num_extra=self.num_extra)
        return np.asarray(known / known.sum(axis=1, keepdims=True))

    def stored_unknown(self) -> tuple[Named, list[CurvePoint]]:
        """Of the unknown inputs that the network was shown when it was trained: only their logits are known."""
        unknown = {name: split.logits for name, split in self.outputs.items() if name.startswith(f"{OOD}.")}
        if not unknown:
            return {}, []
        test = self._split("test").logits
        named, curves = self._confidence(test, unknown, near=frozenset(), far=frozenset())
        evidence = {name: Evidence(logits=logits, num_extra=self.num_extra) for name, logits in unknown.items()}
        for score in self.job.scores:
            rule = score.fit(None, seed=self.job.seed)
            found = scores_of(rule, Evidence(logits=test, num_extra=self.num_extra), evidence)
            named |= detection_rows(found, near=frozenset(), far=frozenset(), suffix=suffix_of(score))
            curves += score_points(found, suffix_of(score))
        return named, curves

    def shown(self, again: _Again, choose_on: Sequence[Dataset]) -> tuple[Named, list[CurvePoint]]:
        """Of the near and far sets, by running the network on them and on its own data."""
        sets = again.sets
        if not sets.rows:
            return {}, []
        witness = Witness(network=again.run.network(), data=again.data, num_extra=self.num_extra)
        known, unknown = witness.of(again.data.test), {name: witness.of(rows) for name, rows in sets.rows.items()}
        said = {name: evidence.logits for name, evidence in {"test": known, **unknown}.items()}
        if self.job.redraws:
            said = {name: self.outputs[name].logits for name in said}
        test = said.pop("test")
        named, curves = self._confidence(test, said, near=sets.near, far=sets.far)
        for score in self.job.scores:
            rule = fitted_score(score, witness, choose_on, seed=self.job.seed)
            found = scores_of(rule, known, unknown)
            named |= detection_rows(found, near=sets.near, far=sets.far, suffix=suffix_of(score))
            named |= {(f"fit{suffix_of(score)}", name): value for name, value in rule.numbers.items()}
            curves += score_points(found, suffix_of(score))
        return named, curves

    def _confidence(
        self, test: np.ndarray, unknown: Mapping[str, np.ndarray], *, near: frozenset[str], far: frozenset[str]
    ) -> tuple[Named, list[CurvePoint]]:
        """The calibrated confidence as a score."""
        scores = {
            name: confidence_scores(np.maximum(self.calibrated(logits), LEAST), num_extra=self.num_extra)
            for name, logits in {"test": test, **unknown}.items()
        }
        return detection_rows(scores, near=near, far=far), score_points(scores, "")

    def outcome(self, elapsed: float) -> Outcome:
        """The fitted calibrator, and predictions where they are wanted."""
        kept = self.outputs if self.job.keep_predictions else {}
        return Outcome(
            predictions={
                name: Predictions(
                    row_ids=split.row_ids,
                    labels=split.labels,
                    logits=np.maximum(self.calibrated(split.logits), LEAST).astype(np.float32),
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


def reliability_points(bins: Reliability) -> list[CurvePoint]:
    """Filled bins of the test split: x confidence, y accuracy, count rows."""
    return [
        CurvePoint(name="reliability", step=1, key="test", x=float(x), y=float(y), count=int(count))
        for x, y, count in zip(bins.confidence, bins.accuracy, bins.count, strict=True)
        if count
    ]


def risk_points(curve: RiskCoverage) -> list[CurvePoint]:
    """The risk-coverage curve of the test split at evenly spaced coverages: count rows answered."""
    chosen = np.unique(np.linspace(0, len(curve.risk) - 1, CURVE_POINTS).round().astype(np.int64))
    return [
        CurvePoint(name="risk", step=1, key="test", x=float(curve.coverage[i]), y=float(curve.risk[i]), count=int(i) + 1)
        for i in chosen
    ]


def score_points(scores: Mapping[str, np.ndarray], suffix: str) -> list[CurvePoint]:
    """Histograms of a score over common bins, one a split: x middle of a bin, y share of the split's rows, count rows."""
    every: Sequence[np.ndarray] = list(scores.values())
    low, high = np.quantile(np.concatenate(every), [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1.0, CURVE_POINTS + 1)
    points = []
    for split, values in scores.items():
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
        points += [
            CurvePoint(name="score", step=1, key=f"{split}{suffix}", x=float(x), y=count / len(values), count=int(count))
            for x, count in zip((edges[:-1] + edges[1:]) / 2, counts, strict=True)
            if count
        ]
    return points
