"""Networks that earlier training jobs left, for distillers that begin with trained ones."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from pruneyard.workloads.distill.distiller import Lab
from pruneyard.workloads.fields import FILLED_IN, NOT_IDENTITY, check_runs
from pruneyard.workloads.parents import FinishedRun


@dataclass(frozen=True, kw_only=True)
class EarlierNetworks:
    """runs, folder, artifacts: as in `pruneyard.workloads.parents.Runs`, or none; a spec writes `{from: STAGE, over: all}`."""

    runs: tuple[str, ...] = ()
    folder: str = field(default="", metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), metadata=FILLED_IN)

    def __post_init__(self) -> None:
        if self.runs:
            check_runs(self.runs)
        elif self.folder:
            raise ValueError(f"folder is {self.folder!r} without runs; it belongs to them")

    def weights(self, lab: Lab) -> Iterator[dict[str, Tensor]]:
        """Parameters and buffers of each network by name, on the lab's device, in the order of the runs.

        A weight outside its mask is 0. Raises `ValueError` for a network of another model than the lab's, or for other images.
        """
        if len(self.artifacts) != len(self.runs):
            raise ValueError(
                f"runs is {list(self.runs)}; only a study that holds those runs can read what they left"
            )
        for artifact in self.artifacts:
            run = lab.open_run(artifact)
            yield {name: tensor.to(lab.device) for name, tensor in _fitting(run, lab).items()}


def _fitting(run: FinishedRun, lab: Lab) -> dict[str, Tensor]:
    """The weights of a run's network, which could be one of the lab's."""
    finished = run.network()
    blueprint, real = finished.blueprint, lab.real
    for what, came, allowed in (
        ("model", blueprint.builder, lab.model),
        ("shape of images", blueprint.image_shape, real.split.image_shape),
        ("number of outputs", blueprint.num_outputs, real.num_classes),
        ("mean and std of pixels", (blueprint.mean, blueprint.std), (real.mean, real.std)),
    ):
        if came != allowed:
            theirs = f"networks has run {run.run_key}, whose {what} is {came}"
            raise ValueError(f"{theirs}; this job's is {allowed}, and it must be equal")
    return dict(finished.network.state_dict())
