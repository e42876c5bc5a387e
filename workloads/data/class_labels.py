"""Labels as users have them (numbers, text, true and false), and the classes 0 ... C-1 that networks learn."""

import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

MAX_LISTED = 8  # classes that a message names

Labels = npt.NDArray[np.int64]


def encode_labels(
    parts: Mapping[str, npt.NDArray[np.generic]], classes: tuple[str, ...]
) -> tuple[dict[str, Labels], tuple[str, ...]]:
    """Returns the labels of every part as classes 0 ... C-1, (N,) int64, and the names of the classes.

    parts: labels (N,) by the name of their array, which messages use; the first are those of the training rows.
    classes: names of the classes, for labels that are these names or their positions; (): the values of the training labels, in
        ascending order, which a warning lists unless they are 0 ... C-1 already.

    Raises `ValueError` for labels that are no classes, for fewer than two classes, and for a label that no training row has.
    """
    plain = {name: _as_classes(labels, name) for name, labels in parts.items()}
    first, of_train = next(iter(plain.items()))
    known = np.asarray(classes) if classes and of_train.dtype.kind == "U" else np.arange(len(classes))
    if not classes:
        known = np.unique(of_train)
        _check_number(known, of_train, first)
        if known.dtype.kind == "U" or not np.array_equal(known, np.arange(len(known))):
            logger.warning("%s: the labels %s are the classes 0 ... %d", first, _listed(known), len(known) - 1)
    elif len(classes) < 2:
        raise ValueError(f"classes is {list(classes)}; it must name two classes or more")
    encoded = {name: _positions(labels, known, name, is_given=bool(classes)) for name, labels in plain.items()}
    return encoded, classes or tuple(str(value) for value in known.tolist())


def _as_classes(labels: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.generic]:
    """Returns labels (N,) as int64 or text. Raises `ValueError` for values that are no classes."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"{name} has the shape {labels.shape}; it must be (N,), one class a row (argmax of one-hot rows)")
    if labels.dtype.kind in "US" or (labels.dtype == object and all(isinstance(value, str) for value in labels)):
        return labels.astype(str)
    if labels.dtype.kind in "bui":
        return labels.astype(np.int64)
    if labels.dtype.kind != "f":
        raise ValueError(f"{name} has the type {labels.dtype}; it must hold whole numbers or text, one class for each row")
    wrong = np.flatnonzero(~np.isfinite(labels) | (labels != np.floor(labels)))
    if len(wrong):
        row, value = wrong[0], labels[wrong[0]]
        what = "has no label" if not np.isfinite(value) else f"has the label {value:g}"
        raise ValueError(f"{name}, row {row} {what}; it must be a class, a whole number or text: regression is not supported")
    return labels.astype(np.int64)


def _check_number(known: npt.NDArray[np.generic], labels: npt.NDArray[np.generic], name: str) -> None:
    if len(known) < 2:
        found = f"only the class {known[0]!s}" if len(known) else "no rows"
        raise ValueError(f"{name} has {found}; it must have two classes or more")
    if len(known) > 20 and 2 * len(known) > len(labels):
        raise ValueError(
            f"{name} has {len(known)} different values in {len(labels)} rows ({_listed(known)}), too many for classes; "
            "regression is not supported"
        )


def _positions(labels: npt.NDArray[np.generic], known: npt.NDArray[np.generic], name: str, *, is_given: bool) -> Labels:
    """Returns the position of each label among the sorted or given `known` classes."""
    order = np.argsort(known, kind="stable")
    if labels.dtype.kind == "U" != known.dtype.kind and len(labels):
        allowed = "the classes are" if is_given else "the training rows have"
        raise ValueError(
            f"{name}, row 0 has the label {str(labels[0])!r}, which is text; {allowed} whole numbers, {_listed(known)}: "
            "save both as text, or both as whole numbers"
        )
    # Whole numbers may be the names of classes.
    comparable = labels if labels.dtype.kind == known.dtype.kind else labels.astype(str)
    found = np.minimum(np.searchsorted(known[order], comparable), len(known) - 1)
    positions = order[found]
    wrong = np.flatnonzero(known[positions] != comparable)
    if len(wrong):
        allowed = "the classes are" if is_given else "the training rows have"
        raise ValueError(f"{name}, row {wrong[0]} has the label {labels[wrong[0]]!s}; {allowed} {_listed(known)}")
    return positions.astype(np.int64)


def _listed(values: npt.NDArray[np.generic]) -> str:
    shown = [str(value) for value in values[:MAX_LISTED].tolist()]
    return ", ".join(shown) + (f", ... ({len(values)})" if len(values) > MAX_LISTED else "")
