"""Assembles checked outputs by split from arrays of logits or probabilities, labels and split names.

Files and arrays in memory come together here, so that both give the same numbers. Dimensions: N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruneyard.workloads.calibrate.evidence import LOGITS
from pruneyard.workloads.calibrate.ood_detection import uses_logits_only
from pruneyard.workloads.calibrate.outputs import Outputs
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.calibrate.user_outputs.splits import OOD, OWN, Cut, Rows, SplitNames, rows_named
from pruneyard.workloads.calibrate.user_outputs.values import (
    NO_LABEL,
    Floats,
    Labels,
    labels_of,
    logits_of,
    row_ids_of,
)
from pruneyard.workloads.metrics.probabilities import as_array
from pruneyard.workloads.plugins import find, name_of, names

Positive = int | str | None
"""The positive class of a binary problem, by number or name; None where none is chosen."""


@dataclass(frozen=True, kw_only=True)
class ArrayNames:
    """The names of the arrays in messages, such as a file and its column."""

    values: str
    label: str
    split: str
    row_id: str = "row_id"


@dataclass(frozen=True, kw_only=True)
class UserOutputs:
    """Outputs by split, given as `logits` or `probabilities`, with the number of extra outputs and that of the positive class.

    note: says what was read and how the rows came into their splits.
    """

    splits: Mapping[str, Outputs]
    kind: str
    num_extra: int
    positive: int | None
    note: str

    def check_test(self) -> None:
        """Raises `ValueError` if the outputs lack the split to evaluate on."""
        if "test" not in self.splits or not len(self.splits["test"]):
            raise ValueError(f"{self.note}: there must be rows of split test, to evaluate on")

    def check(self, fit: str, scores: Sequence[Score] = ()) -> None:
        """Raises `ValueError` if `test`, two classes in the split to fit on, or OOD inputs for scores are missing."""
        self.check_test()
        if fit not in self.splits or not len(self.splits[fit]):
            raise ValueError(f"{self.note}: there must be rows of split {fit}, to fit on")
        labels = self.splits[fit].labels
        if (labels == labels[0]).all():
            found = f"all {len(labels)} labels of {fit} are {labels[0]}"
            raise ValueError(f"{self.note}: {found}; there must be at least two classes to fit on")
        if scores and not any(name.startswith(f"{OOD}.") for name in self.splits):
            needed = "there must be rows of OOD inputs, which are of split ood or ood.NAME"
            raise ValueError(f"scores is {', '.join(map(name_of, scores))}; {self.note}: {needed}")


def check_scores(scores: Sequence[Score], why: str) -> None:
    """Raises `ValueError` for a score that needs more than logits. why: there is nothing else, in words."""
    for place, score in enumerate(scores):
        if not uses_logits_only(score):
            usable = ", ".join(name for name in names("calibrate.scores") if uses_logits_only(find("calibrate.scores", name)))
            rule = f"{name_of(score)} needs {', '.join(sorted(score.needs - {LOGITS}) or ['training rows'])}"
            raise ValueError(f"scores[{place}] is {name_of(score)}, {why} and {rule}; it must be one of {usable}")


@dataclass(frozen=True, kw_only=True)
class CheckedRows:
    """All rows: logits (N, C), labels (N,), -1 for rows without, ids (N,), and the rows of every split that was named.

    rows: None where nothing names the splits.
    """

    names_of: ArrayNames
    kind: str
    logits: Floats
    labels: Labels
    row_ids: NDArray[np.int64]
    rows: Rows | None
    num_extra: int
    positive: int | None

    @property
    def num_classes(self) -> int:
        """The number of classes, without extra outputs."""
        return int(self.logits.shape[1]) - self.num_extra

    def outputs(self, cut: Cut | None, *, chosen: NDArray[np.bool_] | None = None, model: str = "") -> UserOutputs:
        """Returns the outputs of the chosen rows by split, without splits that have none of these rows.

        cut: how rows are cut where nothing names their splits; None to leave all of them in `test`.
        chosen: (N,), the rows of one model; None for all.
        """
        kept = np.arange(len(self.labels)) if chosen is None else np.flatnonzero(chosen)
        how = "of which"
        if self.rows is not None:
            rows = {name: numbers if chosen is None else numbers[chosen[numbers]] for name, numbers in self.rows.items()}
        elif cut is None:
            rows = {"test": kept}
        else:
            rows = {name: kept[numbers] for name, numbers in cut.rows(self.labels[kept]).items()}
            how = f"cut by class with split_seed {cut.split_seed} into"
        rows = {name: numbers for name, numbers in rows.items() if len(numbers)}
        counts = ", ".join(f"{len(numbers):,} {name}" for name, numbers in rows.items()) or "none is used"
        of_model = f" of model {model}" if model else ""
        about = f"{len(kept):,} rows{of_model}, {self.num_classes:,} classes, given as {self.kind}"
        return UserOutputs(
            splits={name: self._outputs(numbers) for name, numbers in rows.items()},
            kind=self.kind,
            num_extra=self.num_extra,
            positive=self.positive,
            note=f"{self.names_of.values}: {about}, {how} {counts}",
        )

    def _outputs(self, numbers: NDArray[np.int64]) -> Outputs:
        # Rows in one block are a view: large files are not copied again.
        block = slice(numbers[0], numbers[-1] + 1) if numbers[-1] - numbers[0] + 1 == len(numbers) else numbers
        return Outputs(logits=self.logits[block], labels=self.labels[block], row_ids=self.row_ids[block])


def checked_rows(
    values: ArrayLike,
    labels: ArrayLike,
    *,
    kind: str,
    names_of: ArrayNames,
    splits: ArrayLike | None = None,
    split_names: SplitNames | None = None,
    row_ids: ArrayLike | None = None,
    classes: Sequence[str] = (),
    positive: Positive = None,
    num_extra: int = 0,
    one_class: bool = False,
) -> CheckedRows:
    """Returns all rows after checking them. Raises `ValueError` that names the place, the row and what is allowed.

    values: of this kind, `logits` or `probabilities`. One score per row is that of the positive class, by default class 1.
    one_class: whether all labels may be of one class, of which nothing can be fitted.
    """
    given = as_array(values)
    is_single = given.ndim == 1 or given.shape[-1:] == (1,)
    num_rows = len(np.atleast_1d(given))
    labels_N = _column(labels, num_rows, names_of.label, each="label")
    rows, used = None, np.ones(num_rows, dtype=np.bool_)
    if splits is not None:
        rows = rows_named(_column(splits, num_rows, names_of.split), split_names or SplitNames(), place=names_of.split)
        used = np.zeros(num_rows, dtype=np.bool_)
        for numbers in (rows[name] for name in OWN if name in rows):
            used[numbers] = True
    # OOD inputs and training rows may have any label, so they name no class.
    names = _two_classes(labels_N[used], positive, place=names_of.label) if is_single else tuple(classes)
    number = _number_of(positive, names, place=names_of.label)
    logits_NC = logits_of(given, kind=kind, place=names_of.values, positive=1 if number is None else number)
    num_classes = logits_NC.shape[1] - num_extra
    if num_classes < 2:
        came = f"{logits_NC.shape[1]} columns and num_extra is {num_extra}"
        raise ValueError(f"{names_of.values}: has {came}; at least two classes must be left")
    if number is not None and num_classes != 2:
        came = f"positive is {positive!r}, but {names_of.values} has {num_classes} classes"
        raise ValueError(f"{came}; only two have a positive one")
    labels_N = labels_of(labels_N, used=used, num_classes=num_classes, classes=names, place=names_of.label)
    known = labels_N[labels_N != NO_LABEL]
    if not one_class and len(known) and (known == known[0]).all():
        raise ValueError(f"{names_of.label}: all {len(known)} labels are {known[0]}; there must be at least two classes")
    return CheckedRows(
        names_of=names_of,
        kind=kind,
        logits=logits_NC,
        labels=labels_N,
        row_ids=np.arange(num_rows)
        if row_ids is None
        else row_ids_of(_column(row_ids, num_rows, names_of.row_id), place=names_of.row_id),
        rows=rows,
        num_extra=num_extra,
        positive=(1 if number is None else number) if is_single else number,
    )


def _column(values: ArrayLike, num_rows: int, place: str, *, each: str = "value") -> NDArray[Any]:
    given = as_array(values)
    if given.shape != (num_rows,):
        raise ValueError(f"{place}: has shape {given.shape}; it must be ({num_rows},), one {each} for each row of outputs")
    return given


def _two_classes(labels: NDArray[Any], positive: Positive, *, place: str) -> tuple[str, ...]:
    """Returns the names of the two classes of scores if `positive` is a name; else nothing.

    The positive class is the last one, unless the labels are numbers or booleans, which keep their own order.
    """
    if not isinstance(positive, str):
        return ()
    if labels.dtype.kind in "biuf":
        orders = (("False", "True"), ("false", "true")) if labels.dtype == bool else (("0", "1"),)
        for order in orders:
            if positive in order:
                return order
        raise ValueError(f"positive is {positive!r}; {place}: it must be {' or '.join(orders[0])}, as the labels are")
    found = sorted({str(name) for name in labels.tolist()})
    others = [name for name in found if name != positive]
    if len(others) != 1:
        listed = ", ".join(found[:12]) + (f" and {len(found) - 12} more" if len(found) > 12 else "")
        rule = "there must be exactly two names of classes, of which positive is one"
        raise ValueError(f"positive is {positive!r}; {place}: the labels are {listed or 'missing'}; {rule}")
    return (*others, positive)


def _number_of(positive: Positive, classes: Sequence[str], *, place: str) -> int | None:
    if positive is None:
        return None
    if isinstance(positive, str):
        if positive not in classes:
            known = f"one of {', '.join(classes)}" if classes else "0 or 1, as the classes have no names"
            raise ValueError(f"positive is {positive!r}; {place}: it must be {known}")
        return list(classes).index(positive)
    if positive not in (0, 1):
        raise ValueError(f"positive is {positive}; it must be 0 or 1, or the name of a class")
    return int(positive)
