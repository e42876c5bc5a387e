"""The job of kind `calibrate`: calibrates the stored outputs of finished runs and measures their reliability.

It trains no network, and runs one only for OOD scores that need it, OOD sets, dropout passes or SWAG samples. Calibrators are
fitted on held-out rows, usually `calib`, and never evaluated on them.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from pruneyard.workloads.calibrate.calibrator import SMALLEST_LOG, Calibrator
from pruneyard.workloads.calibrate.evaluation import Evaluation
from pruneyard.workloads.calibrate.methods.none import Uncalibrated
from pruneyard.workloads.calibrate.ood_detection import needs_network
from pruneyard.workloads.calibrate.outputs import Outputs, needed_splits, outputs_of, saw_val
from pruneyard.workloads.calibrate.prediction_sets import ConformalRule
from pruneyard.workloads.calibrate.rerun import Rerun
from pruneyard.workloads.calibrate.sampled_members import member_outputs
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.calibrate.user_outputs.assembled import Positive, UserOutputs, check_scores
from pruneyard.workloads.calibrate.user_outputs.input import Input, tables_by_model
from pruneyard.workloads.data.dataset import Dataset, KnowsProbabilities, Source
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, NOT_IDENTITY, renamed
from pruneyard.workloads.parents import FinishedRun, Predictions
from pruneyard.workloads.plugins import Plugin, Settings, name_of
from pruneyard.workloads.seeding import stream_seed
from pruneyard.workloads.workload import Context, Metric, Outcome, Progress

__all__ = ["CalibrateJob"]


@dataclass(frozen=True, kw_only=True)
class CalibrateJob:
    """The resolved spec of a calibrate job.

    input: the runs to calibrate, of which several are averaged as an ensemble before calibration; or a file of outputs.
    fit: the split that calibrators and prediction sets are fitted on; the other of the two is evaluated in addition to `test`.
    sets: conformal rules; fitted on rows that their calibrator has not seen; they change no number of the calibrator itself.
    scores: OOD scores, in addition to the calibrated confidence, which is always evaluated.
    near, far: near and far OOD sets to evaluate the network on, in addition to those of its training run.
    choose_on: OOD sets on whose validation rows the options of scores are chosen; empty: options are used as given.
    dropout_passes: number of MC-dropout passes; above 0 their mean replaces the stored outputs and those on near and far.
    swag_samples: number of SWAG samples; above 0 the mean of the sampled networks replaces these outputs. Scores use the network
        itself. With several runs each contributes that many members (MultiSWAG, Wilson and Izmailov 2020, arXiv:2002.08791).
    keep_predictions: whether to store the calibrated log-probabilities.
    positive: the positive class of a binary problem, by its number or its name in the file; adds metrics of its probability.
    """

    input: Input
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
    positive: Positive = field(default=None, metadata=NEUTRAL_BY_DEFAULT)
    leaves: ClassVar[tuple[str, ...]] = ("predictions",)
    examples: ClassVar[tuple[Settings, ...]] = ({"input": {"from": "runs"}, "method": {"name": "temperature"}},)
    revision: ClassVar[int] = 2  # MCE counted bins of a single row before
    splits_of_inputs = staticmethod(needed_splits)
    tables_of_jobs = staticmethod(tables_by_model)

    def __post_init__(self) -> None:
        if self.num_bins < 1:
            raise ValueError(f"num_bins is {self.num_bins}; it must be 1 or more")
        if self.input.path:
            self._check_without_network()
        elif isinstance(self.positive, str):
            raise ValueError(f"positive is {self.positive!r}, but the classes of runs have no names; give 0 or 1")
        elif self.positive not in (None, 0, 1):
            raise ValueError(f"positive is {self.positive}; it must be 0 or 1")
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

    def _check_without_network(self) -> None:
        """Raises `ValueError` for a setting that needs a network: a file has only its outputs."""
        why = f"but {self.input.path} holds outputs without their network"
        check_scores(self.scores, why)
        for name in ("near", "far", "choose_on"):
            if getattr(self, name):
                given = ", ".join(name_of(source) for source in getattr(self, name))
                raise ValueError(f"{name} is {given}, {why}; leave it out, and give the rows of OOD inputs the split ood.NAME")
        for name in ("dropout_passes", "swag_samples"):
            if getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}, {why}; it must be 0")

    @property
    def is_short(self) -> bool:
        """True, because a job takes milliseconds."""
        return True

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
        outputs, num_extra, positive = self._of_runs(runs) if runs else self._of_file()
        reruns = [Rerun.of(run, context, near=self.near, far=self.far) for run in runs] if self.reads_data_of_input else []
        if self.samples_members:
            members = [self._members(one, outputs, number) for number, one in enumerate(reruns)]
            outputs = member_outputs(members, reruns[0].splits(outputs))
        evaluation = Evaluation(
            outputs=outputs,
            method=self.method,
            fit=self.fit,
            num_bins=self.num_bins,
            sets=self.sets,
            scores=self.scores,
            seed=self.seed,
            num_extra=num_extra,
            positive=positive,
            truth=_truth(runs, outputs, context),
        )
        named, curves = evaluation.evaluate()
        choose_on = [context.load_data(source) for source in self.choose_on]
        found = (
            evaluation.evaluate_ood(reruns[0], choose_on, members=self.samples_members)
            if reruns
            else evaluation.evaluate_stored_ood()
        )
        named |= found[0]
        elapsed = time.monotonic() - started
        yield Progress(
            step=1,
            num_steps=1,
            metrics=tuple(
                Metric(step=1, epoch=1.0, split=split, name=name, value=value, wall_s=elapsed)
                for (split, name), value in named.items()
                if math.isfinite(value)  # the NLL is infinite if a label has probability 0
            ),
            curves=(*curves, *found[1]),
            outcome=self._outcome(evaluation, elapsed),
        )

    def _of_runs(self, runs: Sequence[FinishedRun]) -> tuple[Mapping[str, Outputs], int, int | None]:
        """Returns the stored outputs of runs, the number of extra outputs, and the number of the positive class."""
        stored, num_extra = outputs_of(runs)
        num_classes = stored["test"].logits.shape[1] - num_extra
        if self.positive is not None and num_classes != 2:
            raise ValueError(f"positive is {self.positive}, but the runs have {num_classes} classes; it needs two")
        return self._held_out(runs, stored), num_extra, None if self.positive is None else int(self.positive)

    def _of_file(self) -> tuple[Mapping[str, Outputs], int, int | None]:
        """Returns the same of a file. Raises `ValueError` if it cannot be used for this job."""
        found = self._read_file()
        return found.splits, self.input.num_extra, found.positive

    def _read_file(self) -> UserOutputs:
        found = self.input.read(positive=self.positive)
        found.check(self.fit, self.scores)
        return found

    def _members(self, rerun: Rerun, stored: Mapping[str, Outputs], number: int) -> dict[str, NDArray[np.floating]]:
        """Returns logits (M, N, C) by split of the members sampled from the `number`-th run."""
        # The first run keeps the job's seed, so its members equal those of a job with this run alone.
        seed = stream_seed(self.seed, f"calibrate/run {number}") if number else self.seed
        return rerun.members(stored, dropout_passes=self.dropout_passes, swag_samples=self.swag_samples, seed=seed)

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
        """Returns what was read from a file of outputs. Raises `ValueError` if the file cannot be used.

        Nothing else can be checked before the input runs exist.
        """
        return [self._read_file().note] if self.input.path else []

    @property
    def described(self) -> dict[str, str]:
        """The names of a file's model and, unless the model is called like the file, of the file; empty for runs."""
        if not self.input.path:
            return {}
        return {"model": self.input.model_name, "data": self.input.file_name if self.input.model else ""}

    def _outcome(self, evaluation: Evaluation, elapsed: float) -> Outcome:
        """Returns the fitted calibrator as an artifact, and predictions if `keep_predictions` is set."""
        kept = evaluation.outputs if self.keep_predictions else {}
        return Outcome(
            predictions={
                name: Predictions(
                    row_ids=split.row_ids,
                    labels=split.labels,
                    logits=np.maximum(evaluation.calibrated(split.logits), SMALLEST_LOG).astype(np.float32),
                )
                for name, split in kept.items()
            },
            weights={},
            masks={},
            files={"calibrator.safetensors": safetensors.numpy.save(dict(evaluation.fitted.tensors))},
            num_parameters=None,
            num_active=None,
            train_flops=None,
            train_s=elapsed,
            peak_memory_bytes=None,
            num_extra=evaluation.num_extra,
        )


def _truth(runs: Sequence[FinishedRun], outputs: Mapping[str, Outputs], context: Context) -> NDArray[np.float64] | None:
    """Returns the true class probabilities (N, K) of the rows of test; None unless the data source knows them."""
    if not runs or "test" not in outputs:
        return None
    source = runs[0].source()
    if not isinstance(source, KnowsProbabilities):
        return None
    rows = context.load_data(source).test
    place = {row_id: number for number, row_id in enumerate(rows.row_ids.tolist())}
    images = rows.images[[place[row_id] for row_id in outputs["test"].row_ids.tolist()]]
    return source.probabilities(images)
