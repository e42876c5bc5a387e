"""What is done to a trained network with validation nodes: the protocol, and the answers of those who do less."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pruneyard.workloads.metrics.classification import Floats, Labels
from pruneyard.workloads.nodes.jackknife import Intervals


@dataclass(kw_only=True, slots=True)
class TuningQuestion:
    """One step of fine-tuning on validation nodes."""

    loss: Tensor  # the objective on them, of the network in training mode
    logits: Tensor  # (V, 2) theirs, of the network at rest
    intervals: Callable[[], Intervals]  # theirs at the parameters as they stand; gradients flow through


@dataclass(frozen=True, kw_only=True)
class Readout:
    """How the finished network's logits (M, 2) become log-probabilities (M, 2), and what was fitted for that."""

    log_probabilities: Callable[[Floats], Floats]
    numbers: Mapping[str, float] = field(default_factory=dict)
    tensors: Mapping[str, NDArray[Any]] = field(default_factory=dict)


class NodeMethod(Protocol):
    """A frozen dataclass in `workloads/nodes/methods`. The neutral member is `plain`."""

    @property
    def uses_val(self) -> bool:
        """Whether validation nodes are fitted to; then nothing is reported on them."""
        ...

    @property
    def num_steps(self) -> int:
        """Steps on validation nodes after training; 0 for none."""
        ...

    def tuning_loss(self, question: TuningQuestion) -> tuple[Tensor, Tensor | None]:
        """What a step of tuning minimises beside the penalty on weights, and the EICE to be shown, if any; scalars."""
        ...

    def readout(self, logits: Floats, labels: Labels, *, seed: int) -> Readout:
        """Fitted on validation nodes' logits (V, 2) and labels (V,)."""
        ...


class Untuned:
    """The answers of a method that takes no steps."""

    @property
    def num_steps(self) -> int:
        """None."""
        return 0

    def tuning_loss(self, question: TuningQuestion) -> tuple[Tensor, Tensor | None]:
        """Never asked."""
        raise AssertionError(f"{type(self).__name__} takes no steps of tuning")


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The answers of a method that tunes the network on validation nodes and leaves its probabilities to softmax.

    weight: of the method's term in the loss of a step; the objective has the rest.
    """

    weight: float = 0.1
    steps: int = 200

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be at least 1")

    @property
    def uses_val(self) -> bool:
        """Yes."""
        return True

    @property
    def num_steps(self) -> int:
        """As the table says."""
        return self.steps

    def weighed(self, objective: Tensor, term: Tensor) -> Tensor:
        """What a step minimises, of the two scalars."""
        return (1 - self.weight) * objective + self.weight * term

    def readout(self, logits: Floats, labels: Labels, *, seed: int) -> Readout:
        """Softmax."""
        return Readout(log_probabilities=as_they_are)


def as_they_are(logits: Floats) -> Floats:
    """Log-probabilities of logits, by softmax."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
