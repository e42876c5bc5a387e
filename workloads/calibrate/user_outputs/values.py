"""Checks arrays of logits or probabilities and of labels, and turns them into logits of at least two classes and class numbers.

Errors begin with the place of the values, such as a file and its column. Dimensions: N rows, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruneyard.workloads.calibrate.calibrator import LARGEST_LOGIT, SMALLEST_LOG
from pruneyard.workloads.metrics.probabilities import SUM_TOLERANCE, as_array

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

NO_LABEL = -1  # of OOD inputs, which belong to no class


def logits_of(values: ArrayLike, *, kind: str, place: str, positive: int = 1, is_known: bool = False) -> Floats:
    """Returns logits (N, C) of `values`, which are of this kind: `logits` or `probabilities`.

    One score per row, (N,) or (N, 1), is that of class `positive` of two. The logarithms of probabilities are logits: their
    softmax gives the probabilities back. Raises `ValueError` that names the first row which is not of the declared kind.

    is_known: whether a calibrator was fitted to outputs of this kind. Few logits are given to it then, and they may look like
        probabilities where that says little: scores, and rows of 0 and 1.
    """
    given = as_array(values)
    given_NC = given[:, None] if given.ndim == 1 else given
    if given_NC.ndim != 2 or 0 in given_NC.shape or not _is_numeric(given_NC):
        raise ValueError(f"{place}: has shape {given.shape} of {given.dtype}; it must be (N, C) numbers, or (N,) for two classes")
    values_NC = np.ascontiguousarray(given_NC, dtype=np.float64)
    is_single = values_NC.shape[1] == 1
    if kind == "probabilities":
        _check_probabilities(values_NC, place)
        return _logarithms(_both_classes(values_NC, 1 - values_NC, positive) if is_single else values_NC)
    _check_logits(values_NC, place, is_known=is_known)
    return _both_classes(values_NC, np.zeros_like(values_NC), positive) if is_single else values_NC


def _is_numeric(values: NDArray[Any]) -> bool:
    return bool(np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer))


def _check_logits(values_NC: Floats, place: str, *, is_known: bool) -> None:
    _check_range(values_NC, -LARGEST_LOGIT, LARGEST_LOGIT, place, f"must be at most {LARGEST_LOGIT:g} in magnitude")
    if values_NC.min() < 0:
        return
    if values_NC.shape[1] == 1:
        found = "every value lies in [0, 1]" if values_NC.max() <= 1 and not is_known else ""
    else:
        may_be_logits = _off_one(values_NC).any() or (is_known and np.isin(values_NC, (0, 1)).all())
        found = "" if may_be_logits else "every row sums to 1 and no value is negative"
    if found and is_known:
        rule = "the calibrator was fitted to logits: give logits, or fit it to probabilities"
        raise ValueError(f"{place}: these are probabilities, since {found}; {rule}")
    if found:
        raise ValueError(f"{place}: is declared as logits, but {found}; declare probabilities")


def _check_probabilities(values_NC: Floats, place: str) -> None:
    _check_range(values_NC, 0.0, 1 + SUM_TOLERANCE, place, "is declared as a probability, so it must lie in [0, 1]")
    if values_NC.shape[1] > 1 and (off_N := _off_one(values_NC)).any():
        row = int(off_N.argmax())
        found = f"row {row} sums to {values_NC[row].sum():.6g} ({int(off_N.sum())} of {len(off_N)} rows do not sum to 1)"
        rule = f"the probabilities of a row must sum to 1 within {SUM_TOLERANCE:g}; give them unrounded, or declare logits"
        raise ValueError(f"{place}: {found}; {rule}")


def _off_one(values_NC: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.abs(values_NC @ np.ones(values_NC.shape[1]) - 1) > SUM_TOLERANCE)


def _check_range(values_NC: Floats, low: float, high: float, place: str, rule: str) -> None:
    # NaN makes both comparisons false.
    if values_NC.min() >= low and values_NC.max() <= high:
        return
    finite_NC = np.isfinite(values_NC)
    wrong_NC = ~finite_NC if not finite_NC.all() else (values_NC < low) | (values_NC > high)
    row, column = np.unravel_index(int(wrong_NC.argmax()), wrong_NC.shape)
    where = f"row {row}" if values_NC.shape[1] == 1 else f"row {row}, class {column}"
    raise ValueError(f"{place}: {where} is {values_NC[row, column]:g}; it {rule if finite_NC.all() else 'must be finite'}")


def _both_classes(values_N1: Floats, others_N1: Floats, positive: int) -> Floats:
    """Returns the values of two classes, (N, 2), of which `values` belong to the class `positive`."""
    return np.concatenate([others_N1, values_N1] if positive == 1 else [values_N1, others_N1], axis=1)


def _logarithms(probabilities_NC: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        # One score may exceed 1 by the tolerance, and the other class would then be negative.
        logs_NC = np.log(np.maximum(probabilities_NC, 0.0))
    return np.asarray(np.maximum(logs_NC, SMALLEST_LOG, out=logs_NC))


def labels_of(
    given: NDArray[Any], *, used: NDArray[np.bool_], num_classes: int, classes: Sequence[str] = (), place: str
) -> Labels:
    """Returns class numbers (N,) in [0, C) of labels given as numbers or, where `classes` names the classes, as names.

    used: (N,), False for rows that need no label, such as OOD inputs, which get -1. Raises `ValueError` that names the first
    label which is no class.
    """
    if given.dtype == bool:
        folded = [name.casefold() for name in classes]
        named = {"false", "true"} <= set(folded)  # columns such as prob_true, in any order
        given = np.where(given, folded.index("true"), folded.index("false")) if named else given.astype(np.int64)
    if not _is_numeric(given):
        return _numbers_of_names(given, used, classes, num_classes, place)
    with np.errstate(invalid="ignore"):
        valid = (given >= 0) & (given < num_classes) & (given == np.floor(given))
    if (used & ~valid).any():
        row = int((used & ~valid).argmax())
        raise ValueError(f"{place}: row {row} is {given[row]:g}; it must be a class number, a whole number in [0, {num_classes})")
    return np.where(used, given, NO_LABEL).astype(np.int64)


def _numbers_of_names(
    given: NDArray[Any], used: NDArray[np.bool_], classes: Sequence[str], num_classes: int, place: str
) -> Labels:
    numbers = {name: number for number, name in enumerate(classes)}
    found = np.array([numbers.get(str(name), NO_LABEL) for name in given.tolist()], dtype=np.int64)
    wrong_N = used & (found == NO_LABEL)
    if wrong_N.any():
        row = int(wrong_N.argmax())
        listed = ", ".join(classes[:12]) + (f" and {len(classes) - 12} more" if len(classes) > 12 else "")
        whole = f"a class number in [0, {num_classes}), as the outputs do not name their classes"
        raise ValueError(f"{place}: row {row} is {given[row]!r}; it must be {f'one of {listed}' if classes else whole}")
    return np.where(used, found, NO_LABEL)


def row_ids_of(given: NDArray[Any], *, place: str) -> NDArray[np.int64]:
    """Returns row numbers (N,). Raises `ValueError` that names the first one which is no whole number."""
    if given.dtype.kind == "f":
        # Above 2^53 floating-point numbers are not exact, and NaN and infinity are no numbers of rows.
        valid = (given == np.floor(given)) & (np.abs(given) <= 2**53)
    elif given.dtype.kind in "iu":
        valid = given <= np.iinfo(np.int64).max
    else:
        valid = np.array([type(value) is int for value in given.tolist()], dtype=np.bool_)
    if not valid.all():
        row = int((~valid).argmax())
        found = given[row].item() if isinstance(given[row], np.generic) else given[row]
        raise ValueError(f"{place}: row {row} is {found!r}; it must be a whole number; rename the column to leave it out")
    return given.astype(np.int64)
