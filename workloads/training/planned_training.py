"""Knows the network that a training will leave from its job alone, so that jobs that take it are checked before it has run."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.shared_tensors import state_once
from pruneyard.workloads.parents import PlannedParent

Shapes = Mapping[str, Sequence[int]]
"""Shapes of parameters and buffers, by their names in `state_dict()`; a shared one has its first name."""


@runtime_checkable
class Training(Protocol):
    """A job of kind sparse, as far as its network depends on it."""

    budget: Any
    method: Any
    narrow: Any
    segment: Any

    def model_for(self, image_shape: tuple[int, ...], num_classes: int) -> ModelBuilder:
        """Returns the model that is trained, before channels are removed."""
        ...


def trainings(runs: Sequence[str], parents: Mapping[str, PlannedParent[Any]]) -> dict[str, PlannedParent[Training]]:
    """Returns those of the runs that are known trainings, by run key."""
    return {run: parents[run] for run in runs if run in parents and isinstance(parents[run].workload, Training)}


def num_outputs(training: Training, data: Dataset) -> int:
    """Returns the outputs of the network, those beyond the classes included."""
    num_extra: int = training.method.complete(training).objective.num_extra
    return data.num_classes + num_extra


def planned_shapes(training: Training, data: Dataset) -> Shapes | None:
    """Returns the shapes of the network; None if channels are removed from it, since its weights decide which."""
    if training.narrow.flops < 1:
        return None
    model = training.model_for(data.image_shape, data.num_classes)
    return _shapes(model, data.image_shape, num_outputs(training, data))


@lru_cache(maxsize=256)  # many jobs of a grid have the same network
def _shapes(model: ModelBuilder, image_shape: tuple[int, ...], outputs: int) -> Shapes:
    with torch.device("meta"):
        network = model.build(image_shape=image_shape, num_classes=outputs)
    return {name: tuple(tensor.shape) for name, tensor in state_once(network).items()}
