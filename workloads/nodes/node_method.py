"""Protocol of the methods that calibrate a trained node network on validation nodes, and base classes for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pruneyard.workloads.metrics.classification import Floats, Labels
from pruneyard.workloads.nodes.jackknife import Intervals


@dataclass(kw_only=True, slots=True)
class TuningInputs:
    """The inputs of one fine-tuning step on validation nodes."""

    loss: Tensor  # objective on the validation nodes, in training mode
    logits: Tensor  # (V, 2) of the validation nodes, in evaluation mode
    intervals: Callable[[], Intervals]  # of the validation nodes at the current parameters; differentiable


@dataclass(frozen=True, kw_only=True)
class Readout:
    """The map from logits (M, 2) of the finished network to log-probabilities (M, 2), and its fitted values."""

    log_probabilities: Callable[[Floats], Floats]
    numbers: Mapping[str, float] = field(default_factory=dict)
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class NodeMethod(Protocol):
    """Protocol of a frozen dataclass in `workloads/nodes/methods`. The neutral method is `plain`."""

    @property
    def uses_val(self) -> bool:
        """True if the method fits to validation nodes; then no metrics are reported on them."""
        ...

    @property
    def num_steps(self) -> int:
        """Number of tuning steps on validation nodes after training; 0 without tuning."""
        ...

    def tuning_loss(self, inputs: TuningInputs) -> tuple[Tensor, Tensor | None]:
        """Returns the scalar loss of a tuning step, without the weight penalty, and the EICE to report, if any."""
        ...

    def readout(self, logits: Floats, labels: Labels, *, seed: int) -> Readout:
        """Returns the readout, fitted on logits (V, 2) and labels (V,) of the validation nodes."""
        ...


class Untuned:
    """Base class of a method without tuning steps."""

    @property
    def num_steps(self) -> int:
        """Always 0."""
        return 0

    def tuning_loss(self, inputs: TuningInputs) -> tuple[Tensor, Tensor | None]:
        """Raises `AssertionError`: never called without tuning steps."""
        raise AssertionError(f"{type(self).__name__} has no tuning steps")


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Base class of a method that tunes the network on validation nodes and uses softmax probabilities.

    weight: weight of the method's term in the tuning loss; the objective has weight 1 - weight.
    """

    weight: float = 0.1
    steps: int = 200

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")

    @property
    def uses_val(self) -> bool:
        """Always true."""
        return True

    @property
    def num_steps(self) -> int:
        """The option `steps`."""
        return self.steps

    def weighed(self, objective: Tensor, term: Tensor) -> Tensor:
        """Returns the weighted sum of the objective and the method's term."""
        return (1 - self.weight) * objective + self.weight * term

    def readout(self, logits: Floats, labels: Labels, *, seed: int) -> Readout:
        """Returns the softmax readout."""
        return Readout(log_probabilities=log_softmax)


def log_softmax(logits: Floats) -> Floats:
    """Returns the log-probabilities of logits by softmax, along the last axis."""
    # No exponent is above 0, so exp cannot overflow.
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
