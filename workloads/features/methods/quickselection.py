"""Rank features by the strength of input neurons in a sparse denoising autoencoder (QuickSelection).

An autoencoder with one hidden layer is trained by SET to restore rows from noisy ones. The strength of a feature is the sum of
the magnitudes of the weights that leave its input neuron. By default, only the active weights exist in memory.

Unverified, because only the abstract was read: the hidden layer of 1,000 units with ReLU, `connections`, `drop_fraction`,
`noise`, the optimizer and its rate, the number of epochs, and mask updates once per epoch without decay.

Reference: Atashgahi et al. 2022, Quick and Robust Feature Selection: the Strength of Energy-efficient Sparse Training for
Autoencoders (arXiv:2012.00560)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.feature_ranking import FILE, to_bytes
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.features.denoising import Denoising
from pruneyard.workloads.masks.stored_weights import decode
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.networks.flops import macs_of
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.schedules.constant import Constant
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context, Progress

__all__ = ["QuickSelection"]

ENCODER = "hidden1.weight"


@dataclass(frozen=True, kw_only=True)
class QuickSelection:
    """Strength of input neurons in an autoencoder that SET trains."""

    epochs: int = 10
    batch_size: int = 100
    width: int = 1000  # hidden units
    connections: float = 13.0  # a layer n x m has connections * (n + m) weights, but at most n * m; SET's epsilon
    drop_fraction: float = 0.2  # share of the weights that each mask update moves
    noise: float = 0.2  # standard deviation, in units of normalised features
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-5
    execution: Execution = "sparse"
    examples: ClassVar[tuple[Settings, ...]] = ({"epochs": 2, "width": 16},)

    def __post_init__(self) -> None:
        for name in ("connections", "noise"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be a number above 0")
        if self.execution not in ("masked", "sparse", "auto"):
            raise ValueError(f"execution is {self.execution!r}; it must be masked, sparse or auto")
        for name in ("epochs", "batch_size", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        for name in ("momentum", "drop_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be 0 or more")

    def expected_work(self, data: Dataset) -> tuple[float, int]:
        """Returns the FLOPs of masked dense kernels and the steps."""
        (num_features,) = data.image_shape
        num_steps = self._recipe(len(data.train)).budget.num_steps(len(data.train))
        per_row = 6.0 * sum(macs_of(self.model, data.image_shape, num_features).values())
        return per_row * num_steps * min(self.batch_size, len(data.train)), num_steps

    @property
    def model(self) -> Mlp:
        """The autoencoder, with one output per feature."""
        return Mlp(width=self.width, depth=1)

    def method(self, num_features: int, steps_per_epoch: int) -> SET:
        """Returns the sparse training of the autoencoder; both layers have the same number of weights."""
        size = num_features * self.width
        return SET(
            density=min(1.0, max(2.0, self.connections * (num_features + self.width)) / size),
            distribution="uniform",
            drop_fraction=self.drop_fraction,
            schedule=UpdateSchedule(every=steps_per_epoch, until=1.0, decay="constant"),
        )

    def rank(self, data: Dataset, *, seed: int, context: Context) -> Iterator[Progress]:
        """See `pruneyard.workloads.features.ranker.FeatureRanker`; the outcome has the autoencoder as its network."""
        (num_features,) = data.image_shape
        recipe = self._recipe(len(data.train))
        training = train(
            recipe,
            model=self.model,
            method=self.method(num_features, recipe.budget.steps_per_epoch(len(data.train))),
            data=_targets(data),
            execution=self.execution,
            seed=seed,
            context=context,
        )
        for progress in training:
            if progress.outcome is None:
                yield progress
                continue
            files = {**progress.outcome.files, FILE: to_bytes(strengths(progress.outcome.weights))}
            yield replace(progress, outcome=replace(progress.outcome, files=files))

    def _recipe(self, num_rows: int) -> Recipe:
        return Recipe(
            budget=Budget(epochs=self.epochs, batch_size=self.batch_size),
            objective=Denoising(noise=self.noise),
            optimizer=SGD(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay),
            schedule=Constant(),
        )


def strengths(weights: Mapping[str, Tensor]) -> npt.NDArray[np.float64]:
    """Returns the sum of the magnitudes of the weights that leave each input neuron, (F,)."""
    dense, _ = decode(weights)
    return dense[ENCODER].double().abs().sum(dim=0).numpy()


def _targets(data: Dataset) -> Dataset:
    """Returns the training rows alone, with an output of the network for each feature; classes and labels are not read."""
    (num_features,) = data.image_shape
    none = data.test.take(np.zeros(0, dtype=np.int64))
    names = tuple(f"feature {number}" for number in range(num_features))
    return replace(data, classes=names, val=none, calib=none, test=none)
