"""Bits of inductive bias that a task demands: how rare random networks as good as the run are.

Hypotheses are networks of the run's model with random initial weights, whose last layer is fitted by ridge regression to the
training rows: the budget of data. Their loss is the mean squared error of their outputs on test rows, against one-hot labels,
summed over classes. With P the probability that a hypothesis has at most the loss of the run (its Brier score, unless
`target_loss` is given), the task demands -log2 P bits of this model. Few bits mean that the model's own bias nearly suffices.

P is read from a normal distribution of the logarithm of the loss, fitted to the hypotheses, because no sample reaches far into
the tail. `inductive_bias_se` is the standard error that the number of hypotheses alone makes, to first order.
`inductive_bias_counted` needs no distribution: minus log2 of (1 + hypotheses that reach the loss) / (1 + hypotheses), at most
log2 of their number plus one. Where the two differ by many bits, the first is an extrapolation. The curve `hypothesis_loss` has
the losses in ascending order.

Only the abstract was read. Unverified: the fitted last layer as the way in which hypotheses meet the training data, the
squared error, the log-normal distribution, and its standard error.

Reference: Boopathy et al. 2024, Towards Exact Computation of Inductive Bias (arXiv:2406.15941)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.networks.features import features
from pruneyard.workloads.networks.last_layer import last_layer_name
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.connections import refresh
from pruneyard.workloads.probe.probe import BATCH_SIZE, Finding, Subject, check_max_samples, logits_of
from pruneyard.workloads.seeding import global_stream
from pruneyard.workloads.workload import CurvePoint

__all__ = ["InductiveBias"]

Losses = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class InductiveBias:
    """num_hypotheses: random networks. ridge: penalty, relative to the mean variance of the features. max_samples: rows of each
    split, evenly spread; left out: all. target_loss: the loss to reach; left out: that of the run.
    """

    examples: ClassVar[tuple[Settings, ...]] = ({"num_hypotheses": 5, "max_samples": 40},)
    revision: ClassVar[int] = 2  # before, a smaller last batch counted as much as the others in batch-norm statistics
    fewest_runs: ClassVar[int] = 1
    most_runs: ClassVar[int | None] = 1
    reads_data: ClassVar[bool] = True

    num_hypotheses: int = 100
    ridge: float = 0.01
    max_samples: int | None = 1000
    target_loss: float | None = None

    def __post_init__(self) -> None:
        if self.num_hypotheses < 3:
            raise ValueError(f"num_hypotheses is {self.num_hypotheses}; it must be 3 or more, for a spread")
        if not 0 < self.ridge < math.inf:
            raise ValueError(f"ridge is {self.ridge}; it must be above 0")
        if self.target_loss is not None and not 0 < self.target_loss < math.inf:
            raise ValueError(f"target_loss is {self.target_loss}; it must be above 0")
        check_max_samples(self.max_samples)

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the bits. Raises `ValueError` for a network without features."""
        (subject,) = subjects
        target = self.target_loss or _brier(subject, self.max_samples)
        losses = np.sort(self._losses(subject, seed=seed))
        bits, error = bits_below(losses, target)
        metrics = {
            "inductive_bias": bits,
            "inductive_bias_se": error,
            "inductive_bias_counted": counted_bits(losses, target),
            "hypothesis_loss": float(losses.mean()),
            "target_loss": target,
        }
        num_rows = len(subject.split("test", self.max_samples))
        curves = tuple(
            CurvePoint(name="hypothesis_loss", step=1, key="hypotheses", x=float(place), y=float(loss), count=num_rows)
            for place, loss in enumerate(losses)
        )
        return Finding(metrics={("model", name): value for name, value in metrics.items()}, curves=curves)

    def _losses(self, subject: Subject, *, seed: int) -> Losses:
        """Returns the test losses of the hypotheses, (H,)."""
        rows = {name: subject.on_device(subject.split(name, self.max_samples)) for name in ("train", "test")}
        blueprint, found = subject.finished.blueprint, []
        for number in range(self.num_hypotheses):
            with global_stream(seed, f"inductive_bias/{number}"):
                network = blueprint.builder.build(image_shape=blueprint.image_shape, num_classes=blueprint.num_outputs)
            network = network.to(subject.device).eval().requires_grad_(False)
            last_layer_name(network)  # an error for a network without features
            refresh(network, rows["train"])
            (inputs, labels), (test_inputs, test_labels) = (
                (_features(network, [images for images, _ in each.batches(BATCH_SIZE)]), each.labels) for each in rows.values()
            )
            outputs = ridge_outputs(inputs, one_hot(labels, subject.num_classes), test_inputs, ridge=self.ridge)
            found.append(float(squared_error(outputs, one_hot(test_labels, subject.num_classes))))
        return np.array(found)


@torch.no_grad()
def _features(network: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    """Returns the features of all rows, (N, F) float64."""
    return torch.cat([features(network, images) for images in batches]).double()


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Returns the targets (N, K) float64 of labels (N,)."""
    return functional.one_hot(labels.long(), num_classes).double()


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean over rows of the squared error, summed over classes."""
    return (outputs.double() - targets).square().sum(dim=1).mean()


def ridge_outputs(inputs: Tensor, targets: Tensor, new_inputs: Tensor, *, ridge: float) -> Tensor:
    """Returns what ridge regression with an intercept on inputs (N, F) and targets (N, K) predicts for new inputs (M, F)."""
    mean, target_mean = inputs.mean(dim=0), targets.mean(dim=0)
    centred = inputs - mean
    gram = centred.T @ centred
    gram.diagonal().add_(ridge * gram.diagonal().mean().clamp(min=1e-12))
    weights = torch.linalg.solve(gram, centred.T @ (targets - target_mean))
    outputs: Tensor = target_mean + (new_inputs - mean) @ weights
    return outputs


def _brier(subject: Subject, max_samples: int | None) -> float:
    """Returns the squared error of the run's probabilities on test rows."""
    rows = subject.on_device(subject.split("test", max_samples))
    probabilities = logits_of(subject.network(), rows, num_classes=subject.num_classes).softmax(dim=1)
    return float(squared_error(probabilities, one_hot(rows.labels.cpu(), subject.num_classes)))


def bits_below(losses: Losses, target: float) -> tuple[float, float]:
    """Returns -log2 of the probability of a loss of at most `target`, and its standard error.

    losses: (H,), above 0, of a log-normal distribution. The error follows from those of mean and deviation, which are
    independent, to first order. Equal losses have no spread: (0, 0) where they reach the target, else (inf, inf).
    """
    logs = np.log(losses)
    mean, deviation, num = float(logs.mean()), float(logs.std(ddof=1)), len(logs)
    if deviation == 0:
        return (0.0, 0.0) if target >= losses[0] else (math.inf, math.inf)
    place = (math.log(target) - mean) / deviation
    # d log P / d place is the hazard; the place has the variance 1/num + place^2 / (2 (num - 1)).
    hazard = math.exp(norm.logpdf(place) - norm.logcdf(place))
    spread = math.sqrt(1 / num + place**2 / (2 * (num - 1)))
    return float(-norm.logcdf(place) / math.log(2)), hazard * spread / math.log(2)


def counted_bits(losses: Losses, target: float) -> float:
    """Returns -log2 of (1 + losses of at most `target`) / (1 + losses)."""
    return -math.log2((1 + int((losses <= target).sum())) / (1 + len(losses)))
