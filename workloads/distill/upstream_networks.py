"""Networks of finished training runs, for distillers that begin with trained networks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.distill.distiller import DistillContext
from pruneyard.workloads.fields import FILLED_IN, NOT_IDENTITY, check_runs
from pruneyard.workloads.parents import FinishedRun, PlannedParent
from pruneyard.workloads.training.planned_training import num_outputs, trainings


@dataclass(frozen=True, kw_only=True)
class UpstreamNetworks:
    """The networks of several runs, or none.

    runs, folder, artifacts: as in `pruneyard.workloads.parents.Runs`; a spec writes `{from: STAGE, over: all}`.
    """

    reads: ClassVar[str] = "network"

    runs: tuple[str, ...] = ()
    folder: str = field(default="", metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), metadata=FILLED_IN)

    def __post_init__(self) -> None:
        if self.runs:
            check_runs(self.runs)
        elif self.folder:
            raise ValueError(f"folder is {self.folder!r} without runs; give runs or leave it out")

    def check_parents(self, job: Any, data: Dataset, parents: Mapping[str, PlannedParent[Any]]) -> None:
        """Raises `ValueError` if an upstream training leaves another model, or one for other data, than the job takes.

        job: the distill job that has this table. data: its data. parents: the known upstream runs, by run key.
        """
        for run, parent in trainings(self.runs, parents).items():
            known, training = parent.data, parent.workload
            for name, found, expected in (
                ("model", training.model_for(known.image_shape, known.num_classes), job.model),
                ("shape of images", known.image_shape, data.image_shape),
                ("number of outputs", num_outputs(training, known), data.num_classes),
            ):
                if found != expected:
                    mismatch = f"networks has run {run}, whose {name} is {found}"
                    raise ValueError(f"{mismatch}; it must be {expected}, like this job's")

    def weights(self, context: DistillContext) -> Iterator[dict[str, Tensor]]:
        """Yields parameters and buffers of each network by name, on the context's device, in the order of the runs.

        A weight outside its mask is 0. Raises `ValueError` for a network with another model or other data than the context's.
        """
        if len(self.artifacts) != len(self.runs):
            raise ValueError(
                f"runs is {list(self.runs)}; only a study that contains these runs can read their artifacts"
            )
        for artifact in self.artifacts:
            run = context.open_run(artifact)
            yield {name: tensor.to(context.device) for name, tensor in _checked_weights(run, context).items()}


def _checked_weights(run: FinishedRun, context: DistillContext) -> dict[str, Tensor]:
    """Returns the weights of a run's network. Raises `ValueError` if model or data differ from the context's."""
    finished = run.network()
    blueprint, real = finished.blueprint, context.real
    for name, found, expected in (
        ("model", blueprint.builder, context.model),
        ("shape of images", blueprint.image_shape, real.split.image_shape),
        ("number of outputs", blueprint.num_outputs, real.num_classes),
        ("mean and std of pixels", (blueprint.mean, blueprint.std), (real.mean, real.std)),
    ):
        if found != expected:
            mismatch = f"networks has run {run.run_key}, whose {name} is {found}"
            raise ValueError(f"{mismatch}; it must be {expected}, like this job's")
    return dict(finished.network.state_dict())
