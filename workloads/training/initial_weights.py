"""Starting weights from a file or from an earlier run, for fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pruneyard.workloads.data.artifact_file import locate_artifact_file, resolve_digest
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.fields import FILLED_IN, NOT_IDENTITY
from pruneyard.workloads.masks.choice import listed
from pruneyard.workloads.masks.stored_weights import decode, dense_shapes
from pruneyard.workloads.networks.shared_tensors import first_names, state_once, under_first_names
from pruneyard.workloads.parents import PlannedParent
from pruneyard.workloads.training.planned_training import Shapes, num_outputs, planned_shapes, trainings
from pruneyard.workloads.user_code.nearest import nearest

FILE = "model.safetensors"  # among the artifacts of a run


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """Parameters and buffers that a training starts from; by default all are initialised at random.

    path: a safetensors file with the names of `state_dict()`. Its content is part of the run key, its path is not.
    digest: 16 hexadecimal digits over the file's content; if given, a file with other content is refused.
    runs, folder, artifacts: instead of a path, one run as in `pruneyard.workloads.parents.Runs`; a spec writes `from: STAGE`. Its
        weights are 0 outside its masks; the method of this job makes its own masks.
    reset: patterns of names, as `fnmatch` matches them, that keep their random start, such as a last layer for other classes.
    """

    reads: ClassVar[str] = "network"

    path: str = field(default="", metadata=NOT_IDENTITY)
    digest: str = ""
    runs: tuple[str, ...] = ()
    folder: str = field(default="", metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), metadata=FILLED_IN)
    reset: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.path and self.runs:
            raise ValueError(f"path is {self.path!r} and runs is {list(self.runs)}; one of them must be left out")
        if not self.is_given:
            for name in ("digest", "folder", "reset"):
                if getattr(self, name):
                    raise ValueError(f"{name} is {getattr(self, name)!r}, but there are no initial weights; give path or from")
            return
        wanted = "the path of a safetensors file with the names of state_dict(), or from, a stage or folder of finished runs"
        digest = resolve_digest(
            path=self.path, digest=self.digest, runs=self.runs, mismatch="holds other weights", wanted=wanted
        )
        # The dataclass is frozen, but the digest is only known after the file has been read.
        object.__setattr__(self, "digest", digest)

    @property
    def is_given(self) -> bool:
        """Returns whether any weights are read."""
        return bool(self.path or self.runs)

    def check(self, network: nn.Module) -> None:
        """Raises `ValueError` if the weights do not fit the network, which may be on the meta device; reads no weight."""
        if self.is_given:
            path = self._located()
            try:
                with safetensors.safe_open(path, framework="pt") as opened:
                    shapes = dense_shapes(opened.keys(), lambda key: opened.get_slice(key).get_shape(), opened.get_tensor)
            except safetensors.SafetensorError as error:
                raise ValueError(f"initial.path is {path}, which is no safetensors file: {error}") from error
            self._names_to_read(_shapes_of(network), under_first_names(shapes, first_names(network)), path)

    def check_parents(self, job: Any, data: Dataset, parents: Mapping[str, PlannedParent[Any]]) -> None:
        """Raises `ValueError` if the weights of an upstream training do not fit the network of the job that has this table.

        data: a set with the shape and classes of the job's own. parents: the known upstream runs, by run key.
        """
        with torch.device("meta"):
            model = job.model_for(data.image_shape, data.num_classes)
            network = model.build(image_shape=data.image_shape, num_classes=num_outputs(job, data))
        own, later = _shapes_of(network), first_names(network)
        for run, parent in trainings(self.runs, parents).items():
            shapes = planned_shapes(parent.workload, parent.data)
            if shapes is not None:
                self._names_to_read(own, under_first_names(shapes, later), f"run {run}")

    def read(self) -> dict[str, Tensor]:
        """Returns the stored parameters and buffers in their dense shapes by name, without those that are reset."""
        tensors, _ = decode(safetensors.torch.load_file(self._located()))
        return {name: tensor for name, tensor in tensors.items() if not self._is_reset(name)}

    def load_into(self, network: nn.Module) -> None:
        """Copies the weights into a network. Raises `ValueError` if they do not fit, or are not finite."""
        if not self.is_given:
            return
        path = self._located()
        stored, _ = decode(safetensors.torch.load_file(path))
        later = first_names(network)
        tensors = under_first_names(stored, later)
        if differing := [name for name in later if name in stored and not torch.equal(stored[name], tensors[later[name]])]:
            name, first = differing[0], later[differing[0]]
            raise ValueError(f"initial: {path} has different numbers in {first} and {name}, which are one tensor of the network")
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        names = self._names_to_read(_shapes_of(network), shapes, path)
        bad = [name for name in names if not torch.isfinite(tensors[name]).all()]
        if bad:
            raise ValueError(f"initial: {path} has numbers that are not finite in {listed(bad)}")
        own = network.state_dict()
        with torch.no_grad():
            for name in names:
                own[name].copy_(tensors[name])

    def _located(self) -> str:
        return str(
            locate_artifact_file(path=self.path, digest=self.digest, runs=self.runs, artifacts=self.artifacts, name=FILE)
        )

    def _names_to_read(self, own: Shapes, shapes: Shapes, path: str) -> list[str]:
        """Returns the names of the tensors to read. Raises `ValueError` where the file and the network do not fit."""
        for place, pattern in enumerate(self.reset):
            if not any(fnmatchcase(name, pattern) for name in own):
                rule = f"which matches none of {listed(list(own))}{nearest(pattern, own)}"
                raise ValueError(f"initial.reset[{place}] is {pattern!r}, {rule}")
        wanted = [name for name in own if not self._is_reset(name)]
        remedy = "give the same model, or name in initial.reset what is to start at random"
        if missing := [name for name in wanted if name not in shapes]:
            raise ValueError(f"initial: {path} lacks {listed(missing)}; {remedy}")
        if surplus := [name for name in shapes if name not in own and not self._is_reset(name)]:
            raise ValueError(f"initial: {path} has {listed(surplus)}, which the network does not have; {remedy}")
        for name in wanted:
            if tuple(shapes[name]) != tuple(own[name]):
                found, expected = tuple(shapes[name]), tuple(own[name])
                raise ValueError(f"initial: {path} has {name} of shape {found}; it must be {expected}; {remedy}")
        return wanted

    def _is_reset(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.reset)


def _shapes_of(network: nn.Module) -> Shapes:
    return {name: tensor.shape for name, tensor in state_once(network).items()}


AT_RANDOM = InitialWeights()
