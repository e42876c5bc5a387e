"""Calibrates arrays of logits or probabilities, with the numbers of a calibrate job on the same rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.outputs.evaluation import rows_of_arrays
from pruneyard.orchestrator.spec.codec import decode
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.workloads.calibrate.calibrator import Calibrator, FittedCalibrator
from pruneyard.workloads.calibrate.evaluation import Evaluation
from pruneyard.workloads.calibrate.methods.none import Uncalibrated
from pruneyard.workloads.calibrate.prediction_sets import ConformalRule
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.calibrate.user_outputs.assembled import Positive, UserOutputs, check_scores
from pruneyard.workloads.calibrate.user_outputs.splits import Cut
from pruneyard.workloads.calibrate.user_outputs.values import logits_of
from pruneyard.workloads.plugins import Plugin

Chosen = str | Mapping[str, Any]
"""A plug-in by its name, or by a table with its name and options, as in a spec."""

SHOWN = ("accuracy", "nll", "brier", "ece", "ece_adaptive")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a calibration, under the names that they have in a calibrate job."""

    method: Annotated[Calibrator, Plugin("calibrate.methods")]
    fit: Literal["calib", "val"] = "calib"
    num_bins: int = 15
    sets: tuple[Annotated[ConformalRule, Plugin("calibrate.conformal")], ...] = ()
    scores: tuple[Annotated[Score, Plugin("calibrate.scores")], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_bins < 1:
            raise ValueError(f"num_bins is {self.num_bins}; it must be 1 or more")
        check_scores(self.scores, "but there are outputs without their network")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted calibrator and its metrics on rows that it was not fitted to.

    before, after: metrics by `split/name`, such as `test/ece`, of the outputs as they are and of the calibrated ones. `after`
        also has the fitted values (`fit/temperature`), those of conformal sets (`sets@aps/coverage`) and of OOD scores.
    note: says what was given and how the rows came into their splits.
    """

    before: Mapping[str, float]
    after: Mapping[str, float]
    note: str
    fitted: FittedCalibrator
    kind: str
    positive: int

    def probabilities(self, values: ArrayLike) -> NDArray[np.float64]:
        """Returns calibrated probabilities (M, C) of new outputs (M, C), or scores (M,), of the kind that was calibrated.

        Raises `UsageError` for outputs of another kind or another number of classes. Scores (M,) in [0, 1] are taken for what
        was calibrated, since logits can lie there too.
        """
        try:
            logits = logits_of(values, kind=self.kind, place=self.kind, positive=self.positive, is_known=True)
            return np.exp(self.fitted.log_probabilities(logits))
        except ValueError as error:
            raise UsageError(str(error)) from error

    def table(self) -> pd.DataFrame:
        """Returns the common metrics on `test`, with the rows `before` and `after`."""
        rows = {"before": self.before, "after": self.after}
        return pd.DataFrame([{name: row[f"test/{name}"] for name in SHOWN} for row in rows.values()], index=list(rows))

    def __repr__(self) -> str:
        return f"{self.note}\n{self.table().to_string()}"

    def _repr_html_(self) -> str:
        return str(self.table().to_html())


def calibrate(
    logits: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    *,
    probabilities: ArrayLike | None = None,
    method: Chosen = "temperature",
    splits: ArrayLike | None = None,
    calib_fraction: float = 0.5,
    split_seed: int = 0,
    fit: str = "calib",
    sets: Sequence[Chosen] = (),
    scores: Sequence[Chosen] = (),
    num_bins: int = 15,
    positive: Positive = None,
    seed: int = 0,
) -> Calibration:
    """Fits a calibrator to a part of the rows and returns it with the metrics of the others.

    logits, probabilities: one of the two, (N, C) numbers, which declares what they are; or (N,) scores of the positive class.
    labels: (N,) class numbers in [0, C); any for OOD inputs.
    method, sets, scores: calibrator, conformal rules and OOD scores, each by name or as a table, as in a calibrate job.
    splits: (N,) of `calib`, `val`, `test`, and `ood` or `ood.NAME` for OOD inputs. Without it, `calib_fraction` of each class,
        chosen with `split_seed`, becomes `calib` and the rest `test`.

    The numbers are those of a calibrate job with these settings. Raises `UsageError` that names the argument, the row and what is
    allowed.

    >>> import numpy as np, pruneyard
    >>> generator = np.random.default_rng(0)
    >>> logits = generator.normal(size=(1000, 3))
    >>> labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    >>> found = pruneyard.calibrate(3 * logits, labels)  # three times too confident
    >>> bool(found.after["test/ece"] < 0.1 < found.before["test/ece"]), round(found.after["fit/temperature"])
    (True, 3)
    >>> found.probabilities([[3.0, 0.0, 0.0]]).round(1)
    array([[0.6, 0.2, 0.2]])
    """
    given = {"method": method, "fit": fit, "num_bins": num_bins, "sets": list(sets), "scores": list(scores), "seed": seed}
    log = ProblemLog()
    settings = decode(Settings, given, "", log)
    if settings is None:
        raise SpecError("calibrate", log.problems)
    try:
        rows = rows_of_arrays(logits, probabilities, labels, splits=splits, positive=positive)
        return calibrated(rows.outputs(Cut(calib_fraction=calib_fraction, split_seed=split_seed)), settings)
    except ValueError as error:
        raise UsageError(str(error)) from error


def calibrated(outputs: UserOutputs, settings: Settings) -> Calibration:
    """Returns the calibration of outputs. Raises `ValueError` for rows that it cannot be fitted to or evaluated on."""
    outputs.check(settings.fit, settings.scores)

    def metrics(method: Calibrator, **further: Any) -> tuple[Evaluation, dict[str, float]]:
        evaluation = Evaluation(
            outputs=outputs.splits,
            method=method,
            fit=settings.fit,
            num_bins=settings.num_bins,
            seed=settings.seed,
            num_extra=outputs.num_extra,
            positive=outputs.positive,
            **further,
        )
        named = evaluation.evaluate()[0] | evaluation.evaluate_stored_ood()[0]
        return evaluation, {f"{split}/{name}": value for (split, name), value in named.items() if math.isfinite(value)}

    _, before = metrics(Uncalibrated())
    evaluation, after = metrics(settings.method, sets=settings.sets, scores=settings.scores)
    return Calibration(
        before=before,
        after=after,
        note=outputs.note,
        fitted=evaluation.fitted,
        kind=outputs.kind,
        positive=1 if outputs.positive is None else outputs.positive,
    )
