"""Protocols and base classes of post-hoc calibrators. An unfitted calibrator and a fitted one are different types.

Other packages rely on the protocols only. `PostHoc` and `Fitted` provide input validation and conversion to named arrays and
back for the built-in calibrators.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pruneyard.workloads.metrics.probabilities import as_array, check_not_probabilities

LARGEST_LOGIT = 1e100  # larger values overflow in squares and sums
SMALLEST_LOG = -745.0  # logarithm of the smallest float64; replaces log 0 where numbers must be finite
NUDGE = 1e-14  # in log-probability; a few rounding errors of nearby values, too small to change a metric
BLOCK_VALUES = 4_000_000  # of logits that a map is applied to at once: 32 MB

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Arrays = Mapping[str, NDArray[Any]]


class FittedCalibrator(Protocol):
    """A map from logits to calibrated probabilities, fitted to the outputs of one network on held-out samples."""

    @property
    def tensors(self) -> Arrays:
        """All fitted arrays, by name; together with the options they restore this object."""
        ...

    @property
    def numbers(self) -> Mapping[str, float]:
        """The fitted values that a table should show, such as the temperature."""
        ...

    def log_probabilities(self, logits: Floats) -> Floats:
        """Returns log-probabilities `(M, C)` for logits `(M, C)`; rows are distributions, -inf stands for 0."""
        ...


class Calibrator(Protocol):
    """Protocol of the plug-ins of the family `calibrate.methods`: an unfitted calibrator with its options."""

    changes_probabilities: ClassVar[bool]  # False for the neutral member alone, which corrects no over-confidence

    def never_raises_nll(self, num_classes: int) -> bool:
        """Returns whether the NLL of the rows it is fitted to is never above that of the network's own probabilities.

        This holds where the fitted maps contain the identity and the fit minimises the NLL.
        """
        ...

    @property
    def keeps_argmax(self) -> bool:
        """True if calibration never changes a prediction, so accuracy is exactly preserved."""
        ...

    def fit(self, logits: Floats, labels: Labels, *, seed: int) -> FittedCalibrator:
        """Fits on logits `(N, C)` and labels `(N,)` in [0, C) of held-out samples.

        `seed` determines all random numbers. Raises `ValueError` for input that no calibrator can be fitted to: no samples,
        numbers that are not finite, labels out of range or all of one class.
        """
        ...

    def restore(self, tensors: Arrays) -> FittedCalibrator:
        """Returns the fitted calibrator with these `tensors`; its outputs are bit-equal. Raises `ValueError` for others."""
        ...


class PostHoc:
    """Base class that validates the data before fitting. Subclasses are frozen dataclasses; `becomes` is their fitted type."""

    becomes: ClassVar[type["Fitted"]]
    changes_probabilities: ClassVar[bool] = True

    def never_raises_nll(self, num_classes: int) -> bool:
        """Returns False: the maps do not contain the identity, or the fit minimises another loss."""
        return False

    def fit(self, logits: ArrayLike, labels: ArrayLike, *, seed: int) -> "Fitted":
        """See `Calibrator.fit`."""
        return self._fit(*checked_rows(logits, labels), seed=seed)

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> "Fitted":
        raise NotImplementedError

    def restore(self, tensors: Arrays) -> "Fitted":
        """See `Calibrator.restore`."""
        wanted = [field.name for field in dataclasses.fields(self.becomes)]
        if sorted(tensors) != sorted(wanted):
            raise ValueError(f"tensors are {sorted(tensors)}; {self.becomes.__name__} needs {sorted(wanted)}")
        return self.becomes(**tensors)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """Base class of fitted calibrators whose fields are all arrays."""

    # An array, like all fields, so that every field can be stored as a named tensor.
    num_classes: NDArray[np.int64]  # ()

    @property
    def tensors(self) -> Arrays:
        """All fields, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def numbers(self) -> Mapping[str, float]:
        """The fitted values that a table should show; empty by default."""
        return {}

    def log_probabilities(self, logits: ArrayLike) -> Floats:
        """See `FittedCalibrator.log_probabilities`. Raises `ValueError` for logits of another shape, or not finite."""
        logits_MC = checked_logits(logits)
        if logits_MC.shape[1] != self.num_classes:
            raise ValueError(
                f"logits have {logits_MC.shape[1]} columns; the calibrator was fitted to {self.num_classes}"
            )
        if logits_MC.size <= BLOCK_VALUES:
            return self._map(logits_MC)
        return np.concatenate([self._map(block) for block in row_blocks(logits_MC)])

    def _map(self, logits_MC: Floats) -> Floats:
        raise NotImplementedError


def row_blocks(logits_NC: Floats) -> list[Floats]:
    """Returns the rows in blocks of at most `BLOCK_VALUES` values, so that copies of a block take little memory."""
    size = max(1, BLOCK_VALUES // logits_NC.shape[1])
    return [logits_NC[start : start + size] for start in range(0, len(logits_NC), size)]


def checked_logits(logits: ArrayLike) -> Floats:
    """Returns logits `(N, C)` as float64 in C order. Raises `ValueError` naming the first invalid row."""
    logits_NC = np.ascontiguousarray(as_array(logits), dtype=np.float64)
    if np.ndim(logits) != 2 or logits_NC.shape[0] == 0 or logits_NC.shape[1] < 2:
        raise ValueError(f"logits have shape {np.shape(logits)}; it must be (N, C) with N >= 1 and C >= 2")
    # Negated, because NaN compares as false and must be found as well.
    wrong_N = ~(np.abs(logits_NC) <= LARGEST_LOGIT).all(axis=1)
    if wrong_N.any():
        row = int(wrong_N.argmax())
        raise ValueError(
            f"row {row} of the logits is {logits_NC[row]}; it must be finite, at most {LARGEST_LOGIT:g} in magnitude"
        )
    return logits_NC


def checked_rows(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Labels]:
    """Returns validated logits `(N, C)` and labels `(N,)` to fit a calibrator. Raises `ValueError` for invalid ones."""
    logits_NC, labels_N = checked_logits(logits), as_array(labels)
    num_rows, num_classes = logits_NC.shape
    if labels_N.shape != (num_rows,):
        raise ValueError(f"labels have shape {labels_N.shape}; it must be ({num_rows},) like the logits")
    if not np.issubdtype(labels_N.dtype, np.integer):
        raise ValueError(f"labels are {labels_N.dtype}; they must be integers")
    wrong_N = (labels_N < 0) | (labels_N >= num_classes)
    if wrong_N.any():
        row = int(wrong_N.argmax())
        raise ValueError(f"row {row} has label {labels_N[row]}; it must lie in [0, {num_classes})")
    if (labels_N == labels_N[0]).all():
        raise ValueError(
            f"all {num_rows} labels are {labels_N[0]}; a calibrator needs samples of at least two classes"
        )
    check_not_probabilities(logits_NC)
    return logits_NC, labels_N.astype(np.int64)


def in_one_order(logits_NC: Floats, labels_N: Labels) -> tuple[Floats, Labels]:
    """Returns the rows in a canonical order, which makes fits independent of the input order to the last digit."""
    # Sorted by label first: the second sort is stable, so rows with equal logits stay in the order of their labels.
    by_label = np.argsort(labels_N, kind="stable")
    # Big-endian bytes compare from the most significant one; adding 0.0 turns -0.0 into 0.0.
    bytes_NC = (logits_NC[by_label] + 0.0).astype(">f8")
    order = by_label[
        np.argsort(bytes_NC.view(np.dtype((np.void, bytes_NC.strides[0]))).ravel(), kind="stable")
    ]
    return logits_NC[order], labels_N[order]


def ranked(logits_NC: Floats, labels_N: Labels) -> tuple[Floats, Labels]:
    """Returns each row's logits in descending order, and the rank of its label among them from 0, without class identities."""
    order_NC = np.argsort(-logits_NC, axis=1, kind="stable")
    ranks_N = (order_NC == labels_N[:, None]).argmax(axis=1)
    return np.take_along_axis(logits_NC, order_NC, axis=1), ranks_N


def keeping_argmax(log_probabilities_MC: Floats, logits_MC: Floats) -> Floats:
    """Restores the argmax of the logits in log-probabilities where rounding lost it, in place.

    A monotone map can round two different logits to one value, and then argmax returns the first of them instead of the
    larger. In such rows the larger one is raised by `NUDGE`, which is enough to survive the exponential.
    """
    rows_M, winners_M = np.arange(len(logits_MC)), logits_MC.argmax(axis=1)
    # Two values closer than `NUDGE` may become equal in the exponential, where the first class would then win.
    near_MC = log_probabilities_MC >= (log_probabilities_MC[rows_M, winners_M] - NUDGE)[:, None]
    behind_M = log_probabilities_MC.argmax(axis=1) != winners_M
    blurred = np.flatnonzero(behind_M | (near_MC.argmax(axis=1) != winners_M))
    if blurred.size:
        best = log_probabilities_MC[blurred].max(axis=1)
        assert (best - log_probabilities_MC[blurred, winners_M[blurred]] < 1e-9).all(), (
            "the map is not monotone"
        )
        log_probabilities_MC[blurred, winners_M[blurred]] = best + NUDGE
    return log_probabilities_MC
