"""What a post-hoc calibrator is: options before it is fitted, and another type after, so that neither is taken for the other.

The protocols are what the rest of the product relies on. `PostHoc` and `Fitted` are what our own calibrators share: the checks
of input, and the way to arrays by name and back.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGEST_LOGIT = 1e100  # beyond it squares and sums overflow
PROBABILITY_TOLERANCE = 1e-4  # how far the sum of a row of float32 probabilities may be from 1
NUDGE = 1e-14  # in log-probability; some roundings of the values around it, and nothing that a metric sees

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Arrays = Mapping[str, NDArray[Any]]


class FittedCalibrator(Protocol):
    """A map from logits to calibrated probabilities, fitted to one network's outputs on held-out rows."""

    @property
    def tensors(self) -> Arrays:
        """Everything that was fitted, by name; with the options it is enough to have this object back."""
        ...

    @property
    def numbers(self) -> Mapping[str, float]:
        """The few of it that a table should show, such as the temperature."""
        ...

    def log_probabilities(self, logits: Floats) -> Floats:
        """Of logits `(M, C)`: log-probabilities `(M, C)`, every row a distribution; -inf stands for 0."""
        ...


class Calibrator(Protocol):
    """A plug-in of the family `calibrate.methods`: how to fit, and with what options."""

    changes_probabilities: ClassVar[bool]  # False for the neutral member alone, which corrects no over-confidence

    def never_raises_nll(self, num_classes: int) -> bool:
        """Returns whether the NLL of the rows it is fitted to is never above that of the network's own probabilities.

        This holds where the fitted maps contain the identity and the fit minimises the NLL.
        """
        ...

    @property
    def keeps_argmax(self) -> bool:
        """Whether no prediction ever changes, so that accuracy stays the same to the last row."""
        ...

    def fit(self, logits: Floats, labels: Labels, *, seed: int) -> FittedCalibrator:
        """Fits on logits `(N, C)` and labels `(N,)` in [0, C) of rows that nothing was trained on.

        `seed` decides all draws. Raises `ValueError` for input that no calibrator can be fitted to: no rows, numbers that
        are not finite, labels out of range or all of one class.
        """
        ...

    def restore(self, tensors: Arrays) -> FittedCalibrator:
        """The fitted calibrator whose `tensors` these are; its outputs are bit-equal. Raises `ValueError` for others."""
        ...


class PostHoc:
    """Checks what a calibrator is fitted to; a subclass is a frozen dataclass that names what it becomes."""

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
            raise ValueError(f"tensors are {sorted(tensors)}; {self.becomes.__name__} has {sorted(wanted)}")
        return self.becomes(**tensors)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A fitted calibrator that holds arrays and nothing else."""

    num_classes: NDArray[np.int64]  # ()

    @property
    def tensors(self) -> Arrays:
        """Every field, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def numbers(self) -> Mapping[str, float]:
        """Nothing, where there is no number worth a row."""
        return {}

    def log_probabilities(self, logits: ArrayLike) -> Floats:
        """See `FittedCalibrator.log_probabilities`. Raises `ValueError` for logits of other shape, or not finite."""
        logits_MC = checked_logits(logits)
        if logits_MC.shape[1] != self.num_classes:
            raise ValueError(
                f"logits have {logits_MC.shape[1]} columns; the calibrator was fitted to {self.num_classes}"
            )
        return self._map(logits_MC)

    def _map(self, logits_MC: Floats) -> Floats:
        raise NotImplementedError


def checked_logits(logits: ArrayLike) -> Floats:
    """Logits `(N, C)` as float64 in C order, or a `ValueError` that names the first offending row."""
    logits_NC = np.ascontiguousarray(logits, dtype=np.float64)
    if np.ndim(logits) != 2 or logits_NC.shape[0] == 0 or logits_NC.shape[1] < 2:
        raise ValueError(f"logits have shape {np.shape(logits)}; it must be (N, C) with N >= 1 and C >= 2")
    wrong_N = ~(np.abs(logits_NC) <= LARGEST_LOGIT).all(axis=1)
    if wrong_N.any():
        row = int(wrong_N.argmax())
        raise ValueError(
            f"row {row} of the logits is {logits_NC[row]}; it must be finite, at most {LARGEST_LOGIT:g} in size"
        )
    return logits_NC


def checked_rows(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Labels]:
    """Logits `(N, C)` and labels `(N,)` that a calibrator can be fitted to, or a `ValueError`."""
    logits_NC, labels_N = checked_logits(logits), np.asarray(labels)
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
            f"all {num_rows} labels are {labels_N[0]}; a calibrator needs rows of two classes or more"
        )
    if (logits_NC >= 0).all() and (np.abs(logits_NC.sum(axis=1) - 1) < PROBABILITY_TOLERANCE).all():
        raise ValueError(
            "every row of the logits sums to 1 and none is negative: these are probabilities; give logarithms"
        )
    return logits_NC, labels_N.astype(np.int64)


def in_one_order(logits_NC: Floats, labels_N: Labels) -> tuple[Floats, Labels]:
    """The same rows in an order that depends on them alone, for fits whose last digits depend on the order of sums."""
    by_label = np.argsort(labels_N, kind="stable")
    bytes_NC = (logits_NC[by_label] + 0.0).astype(
        ">f8"
    )  # compared as bytes: leading ones first, and -0 made 0
    order = by_label[
        np.argsort(bytes_NC.view(np.dtype((np.void, bytes_NC.strides[0]))).ravel(), kind="stable")
    ]
    return logits_NC[order], labels_N[order]


def ranked(logits_NC: Floats, labels_N: Labels) -> tuple[Floats, Labels]:
    """Each row's logits from the largest to the smallest, and the place of its label among them, from 0: no class has a name."""
    order_NC = np.argsort(-logits_NC, axis=1, kind="stable")
    ranks_N = (order_NC == labels_N[:, None]).argmax(axis=1)
    return np.take_along_axis(logits_NC, order_NC, axis=1), ranks_N


def keeping_argmax(log_probabilities_MC: Floats, logits_MC: Floats) -> Floats:
    """Log-probabilities whose order rounding may have blurred, with the largest where the logits have it, in place.

    A monotone map can round two different logits to one value, and then the first of them, not the larger, is the prediction.
    Where that is so the larger one is raised by `NUDGE`, enough to survive the exponential.
    """
    rows_M, winners_M = np.arange(len(logits_MC)), logits_MC.argmax(axis=1)
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
