"""Conversion of logits to probabilities, and checks of the inputs of all metrics; all in float64.

`probabilities: (N, C)` are rows that sum to 1, and `labels: (N,)` integers in [0, C). Invalid input raises `ValueError`; no
metric returns a number for it.

A network may have additional outputs besides its K classes (for "unknown"): the last `num_extra` columns of its logits
`(N, K + num_extra)`. They take part in the softmax, but prediction and confidence consider only the K classes, whose
probabilities are not rescaled to sum to 1: the probability of "unknown" is missing from the confidence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

SUM_TOLERANCE = 1e-4  # rows of a float32 or bfloat16 softmax differ from 1 by less than this for up to some thousand classes
CHUNK = 2**15  # numbers processed at a time: they and one copy fit into a core's L2 cache

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def as_array(values: ArrayLike) -> NDArray[Any]:
    """Returns an array of anything array-like; a torch tensor of any precision, device or part of a graph is one."""
    if not hasattr(values, "detach"):
        return np.asarray(values)
    # A tensor, known by its method: this file does not import torch, so that `list` answers without it. NumPy has no bfloat16.
    tensor: Any = values.detach().cpu()
    return np.asarray(tensor.float() if tensor.is_floating_point() and tensor.element_size() == 2 else tensor)


def check_not_probabilities(logits_NC: NDArray[Any]) -> None:
    """Raises `ValueError` where every row of what should be logits is a distribution: their softmax would be nearly uniform."""
    if logits_NC.min() >= 0 and np.abs(logits_NC.sum(axis=1, dtype=np.float64) - 1).max() < SUM_TOLERANCE:
        raise ValueError(
            "every row of the logits sums to 1 and none is negative: these are probabilities; give logarithms"
        )


def check_inputs(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Floats, Labels]:
    """Returns the two arrays as float64 and int64. Raises `ValueError` that names the first invalid row."""
    probabilities_NC = check_probabilities(probabilities)
    return probabilities_NC, check_labels(labels, probabilities_NC.shape)


def check_probabilities(probabilities: ArrayLike) -> Floats:
    """Returns probabilities as float64. Raises `ValueError` that names the first row that is not a distribution."""
    probabilities_NC = as_array(probabilities).astype(np.float64, copy=False)
    if probabilities_NC.ndim != 2 or probabilities_NC.shape[0] == 0 or probabilities_NC.shape[1] < 2:
        raise ValueError(
            f"probabilities have shape {probabilities_NC.shape}; it must be (N, C) with N >= 1 and C >= 2"
        )
    # NaN and infinity raise errors below that name the row, so a warning here would only repeat them.
    with np.errstate(invalid="ignore", over="ignore"):
        off_one_N = np.abs(probabilities_NC @ np.ones(probabilities_NC.shape[1]) - 1)
    if not (probabilities_NC.min() >= 0 and off_one_N.max() <= SUM_TOLERANCE):  # also false for NaN
        raise_for_first(~np.isfinite(probabilities_NC).all(axis=1), probabilities_NC, "must be finite")
        raise_for_first((probabilities_NC < 0).any(axis=1), probabilities_NC, "must not be negative")
        raise_for_first(off_one_N > SUM_TOLERANCE, probabilities_NC, "must sum to 1")
    return probabilities_NC


def check_labels(labels: ArrayLike, shape: tuple[int, ...]) -> Labels:
    """Returns the labels of `shape: (N, C)` probabilities or logits as int64. Raises `ValueError` for the first invalid label."""
    labels_N = np.asarray(labels)
    num_rows, num_classes = shape
    if labels_N.shape != (num_rows,):
        raise ValueError(
            f"labels have shape {labels_N.shape}; it must be ({num_rows},) like the probabilities"
        )
    if not np.issubdtype(labels_N.dtype, np.integer):
        raise ValueError(f"labels are {labels_N.dtype}; they must be integers")
    raise_for_first((labels_N < 0) | (labels_N >= num_classes), labels_N, f"must lie in [0, {num_classes})")
    return labels_N.astype(np.int64)


def raise_for_first(invalid_N: np.bool_ | NDArray[np.bool_], values: NDArray[np.generic], rule: str) -> None:
    """Raises `ValueError` for the first invalid row, if there is one."""
    if invalid_N.any():
        row = int(invalid_N.argmax())
        raise ValueError(f"row {row} is {values[row]}; it {rule}")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some rows after softmax: probabilities of the K classes (n, K), predicted class, confidence and log-sum-exp, (n,) each.

    log_total: the log-sum-exp over all outputs, so that log p_k = z_k - log_total.
    """

    rows: slice
    probabilities: Floats
    predicted: NDArray[np.intp]
    confidence: Floats
    log_total: Floats


def softmax_chunks(logits: ArrayLike, *, num_extra: int = 0) -> Iterator[Chunk]:
    """Yields the softmax over all outputs `(N, K + num_extra)`, some rows at a time; -inf gives a probability of 0.

    Raises `ValueError` for NaN, +inf and rows without a finite number.
    """
    logits_NC = as_array(logits)
    if logits_NC.ndim != 2 or logits_NC.shape[0] == 0 or logits_NC.shape[1] < 2:
        raise ValueError(f"logits have shape {logits_NC.shape}; it must be (N, C) with N >= 1 and C >= 2")
    num_outputs = logits_NC.shape[1]
    num_classes = num_outputs - num_extra
    if num_extra < 0 or num_classes < 2:
        raise ValueError(
            f"num_extra is {num_extra}; it must leave at least 2 of {num_outputs} outputs to classes"
        )
    # The product with `ones` sums rows.
    step, ones = max(1, CHUNK // num_outputs), np.ones(num_outputs)
    for start in range(0, len(logits_NC), step):
        rows = slice(start, min(start + step, len(logits_NC)))
        # A copy in any case: the lines below work in place, and the caller's logits may be float64 already.
        outputs = np.array(logits_NC[rows], dtype=np.float64, order="C")
        predicted = outputs[:, :num_classes].argmax(axis=1)
        row_index = np.arange(len(outputs))
        peak = outputs[row_index, predicted]  # NaN if the row contains NaN, as argmax treats NaN as the largest
        if num_extra:
            # An extra output may be larger than all classes, and exp would then overflow.
            peak = np.maximum(peak, outputs[:, num_classes:].max(axis=1))
        if not np.isfinite(peak).all():
            row = int((~np.isfinite(peak)).argmax())
            raise ValueError(f"row {start + row} of the logits is {outputs[row]}; it must be finite")
        # Every exponent is now 0 or less, so exp cannot overflow and the sum is at least 1.
        outputs -= peak[:, None]
        np.exp(outputs, out=outputs)
        total = outputs @ ones
        outputs /= total[:, None]
        probabilities = outputs[:, :num_classes]
        yield Chunk(
            rows=rows,
            probabilities=probabilities,
            predicted=predicted,
            confidence=probabilities[row_index, predicted],
            log_total=peak + np.log(total),
        )


def softmax(logits: ArrayLike) -> Floats:
    """Returns probabilities `(N, C)` of logits `(N, C)`, computed in float64 for every input type."""
    return class_probabilities(logits)


def class_probabilities(logits: ArrayLike, *, num_extra: int = 0) -> Floats:
    """Returns probabilities `(N, K)` of the classes for logits `(N, K + num_extra)`; rows sum to 1 only without extra outputs."""
    return np.concatenate([chunk.probabilities for chunk in softmax_chunks(logits, num_extra=num_extra)])


@dataclass(frozen=True, kw_only=True)
class TopLabel:
    """The largest probability of every row, and whether it belongs to the label (or the probability of that), (N,) each."""

    confidence: Floats
    correct: NDArray[np.bool_] | Floats

    def __len__(self) -> int:
        return len(self.confidence)

    @classmethod
    def from_probabilities(cls, probabilities: ArrayLike, labels: ArrayLike) -> "TopLabel":
        """Reads the top label of probabilities `(N, C)`; among equal largest probabilities the first counts."""
        probabilities_NC, labels_N = check_inputs(probabilities, labels)
        predicted_N = probabilities_NC.argmax(axis=1)
        confidence_N = probabilities_NC[np.arange(len(labels_N)), predicted_N]
        # Rows may exceed 1 by `SUM_TOLERANCE`, but bins cover [0, 1] only.
        return cls(confidence=np.minimum(confidence_N, 1.0), correct=predicted_N == labels_N)

    @classmethod
    def from_logits(cls, logits: ArrayLike, labels: ArrayLike, *, num_extra: int = 0) -> "TopLabel":
        """Reads the top label of outputs `(N, K + num_extra)` without storing all probabilities."""
        confidence, predicted, num_classes = [], [], 0
        for chunk in softmax_chunks(logits, num_extra=num_extra):
            confidence.append(chunk.confidence)
            predicted.append(chunk.predicted)
            num_classes = chunk.probabilities.shape[1]
        confidence_N, predicted_N = np.concatenate(confidence), np.concatenate(predicted)
        labels_N = check_labels(labels, (len(confidence_N), num_classes))
        return cls(confidence=confidence_N, correct=predicted_N == labels_N)

    def ascending(self) -> "TopLabel":
        """Returns the rows sorted by rising confidence (stable); returns self if they are sorted already."""
        if (self.confidence[1:] >= self.confidence[:-1]).all():
            return self
        order = np.argsort(self.confidence, kind="stable")
        return TopLabel(confidence=self.confidence[order], correct=self.correct[order])
