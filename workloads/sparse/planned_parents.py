"""Checks by its spec, even before a training has run, that its network fits the job that is to take it."""

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.masks.choice import listed
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.parents import PlannedParent
from pruneyard.workloads.training.initial_weights import Shapes

if TYPE_CHECKING:
    from pruneyard.workloads.sparse.job import SparseJob


def check_initial(job: "SparseJob", data: Dataset, trainings: Mapping[str, "PlannedParent[SparseJob]"]) -> None:
    """Raises `ValueError` if the weights that a planned training will leave do not fit the network of the job.

    trainings: the planned ones of kind sparse, by run key. Not judged is a network whose channels are chosen by its weights.
    """
    for run in job.initial.runs:
        if run in trainings and trainings[run].workload.narrow.flops == 1:
            job.initial.check_shapes(shapes_of(job, data), _shapes_of_parent(trainings[run]), f"run {run}")


def check_segment(job: "SparseJob", data: Dataset, trainings: Mapping[str, "PlannedParent[SparseJob]"]) -> None:
    """Raises `ValueError` if the job cannot resume from the end of a planned training, for its network or its budget."""
    for run in job.segment.runs:
        if run not in trainings:
            continue
        before = trainings[run].workload
        if job.segment.until <= before.segment.until:
            raise ValueError(
                f"segment.until is {job.segment.until}; run {run} ends at the share {before.segment.until} of its steps, "
                "so until must be larger"
            )
        for name in ("epochs", "steps", "batch_size"):
            own, other = getattr(job.budget, name), getattr(before.budget, name)
            if own != other:
                raise ValueError(f"budget.{name} is {own}; it must be {other}, as in run {run} from which segment resumes")
        if before.narrow.flops < 1 or job.narrow.flops < 1:
            continue
        own_shapes, shapes = shapes_of(job, data), _shapes_of_parent(trainings[run])
        if differing := [name for name in {**own_shapes, **shapes} if own_shapes.get(name) != shapes.get(name)]:
            raise ValueError(f"segment resumes from run {run}, whose network differs in {listed(differing)}; give the same model")


def check_pool(
    model: ModelBuilder, data: Dataset, runs: tuple[str, ...], trainings: Mapping[str, "PlannedParent[SparseJob]"]
) -> None:
    """Raises `ValueError` if a planned training will leave another model, or one for other data, than a distiller takes."""
    for run in runs:
        if run not in trainings:
            continue
        parent = trainings[run]
        num_extra = parent.workload.method.complete(parent.workload).objective.num_extra
        for name, found, expected in (
            ("model", parent.workload.model_for(parent.data.image_shape, parent.data.num_classes), model),
            ("shape of images", parent.data.image_shape, data.image_shape),
            ("number of outputs", parent.data.num_classes + num_extra, data.num_classes),
        ):
            if found != expected:
                raise ValueError(f"networks has run {run}, whose {name} is {found}; it must be {expected}, like this job's")


def shapes_of(job: "SparseJob", data: Dataset) -> Shapes:
    """Returns the shapes of all parameters and buffers of the network of a job, before channels are removed."""
    num_outputs = data.num_classes + job.method.complete(job).objective.num_extra
    return _shapes(job.model_for(data.image_shape, data.num_classes), data.image_shape, num_outputs)


def _shapes_of_parent(parent: "PlannedParent[SparseJob]") -> Shapes:
    return shapes_of(parent.workload, parent.data)


@lru_cache(maxsize=256)  # many jobs of a grid have the same network
def _shapes(model: ModelBuilder, image_shape: tuple[int, ...], num_outputs: int) -> Shapes:
    with torch.device("meta"):
        network = model.build(image_shape=image_shape, num_classes=num_outputs)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
