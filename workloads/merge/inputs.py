"""The tables of a merge that refer to runs: its members, and what they started from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.masks.choice import listed
from pruneyard.workloads.parents import PlannedParent, Runs
from pruneyard.workloads.training.initial_weights import InitialWeights
from pruneyard.workloads.training.planned_training import Shapes, planned_shapes, trainings

Parents = Mapping[str, PlannedParent[Any]]


@dataclass(frozen=True, kw_only=True)
class Members(Runs):
    """The runs that are merged; `check_parents` compares the networks that they will leave."""

    reads: ClassVar[str] = "network"

    def check_parents(self, job: Any, data: Dataset, parents: Parents) -> None:
        """Raises `ValueError` if the method needs one architecture and the members are trainings of several."""
        if job.method.merges_weights:
            known = _known_shapes(self.runs, parents)
            for run, shapes in known.items():
                _check_same_shapes("input", next(iter(known.items())), (run, shapes))


@dataclass(frozen=True, kw_only=True)
class CommonStart(InitialWeights):
    """The weights that all members started from; the fields are those of `InitialWeights`."""

    def check_parents(self, job: Any, data: Dataset, parents: Parents) -> None:
        """Raises `ValueError` if an upstream training leaves another network than the members have."""
        members = _known_shapes(job.input.runs, parents)
        for found in _known_shapes(self.runs, parents).items() if members else ():
            _check_same_shapes("start", next(iter(members.items())), found)


FROM_MEMBERS = CommonStart()


def _known_shapes(runs: tuple[str, ...], parents: Parents) -> dict[str, Shapes]:
    """Returns the shapes of parameters and buffers of the trainings among the runs, where they are known in advance."""
    planned = {run: planned_shapes(parent.workload, parent.data) for run, parent in trainings(runs, parents).items()}
    return {run: shapes for run, shapes in planned.items() if shapes is not None}


def _check_same_shapes(key: str, one: tuple[str, Shapes], other: tuple[str, Shapes]) -> None:
    (first, shapes), (second, theirs) = one, other
    differing = [name for name in {**shapes, **theirs} if tuple(shapes.get(name, ())) != tuple(theirs.get(name, ()))]
    if differing:
        raise ValueError(
            f"{key} has runs {first} and {second}, whose networks differ in {listed(differing)}; this method merges networks of "
            "one architecture only"
        )
