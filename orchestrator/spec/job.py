"""Defines a resolved job and the resources of its trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.workloads.workload import Workload

MAX_JOBS = 100_000  # in one study


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of one trial.

    workers: ranks that train one network together, each on its share of every batch; the global batch size stays the same.
    cpus: CPUs of each worker, and the number of its torch threads.
    gpus: GPUs of each worker; a fraction shares one GPU among several workers or trials.
    strategy: how workers train together. `ddp`: each holds a copy of the whole network, and they average their gradients.
    place_within_s: seconds that trials wait for resources on a cluster before the study ends; it counts while no trial runs
        and none that holds its resources starts.
    """

    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    strategy: str = "ddp"
    place_within_s: float = 300.0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be 1 or more")
        if not self.place_within_s > 0:
            raise ValueError(f"place_within_s is {self.place_within_s}; it must be above 0")
        if self.strategy != "ddp":
            why = ""
            if self.strategy.startswith("fsdp"):
                why = (
                    ": masks, their updates and gradient rules need whole weights on every worker, but FSDP splits "
                    "weights among workers, and the networks here leave most of a device's memory free"
                )
            raise ValueError(f"strategy is {self.strategy}; it must be ddp{why}")
        if self.cpus < 1:
            raise ValueError(f"cpus is {self.cpus}; it must be 1 or more")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(f"gpus is {self.gpus}; it must be a fraction up to 1, or a whole number")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A resolved job and its identity.

    resolved: plain data with every default filled in.
    identity: the part of it that can change a number; parents are described, not named, so that seeds compare as equal.
    label: a short name for people, unique in the spec.
    described: columns data, model, method, density and ipc of the run table.
    parents: keys of the runs whose artifacts the job consumes.
    """

    key: str
    kind: str
    workload: Workload
    resolved: Mapping[str, Any]
    identity: Mapping[str, Any]
    label: str
    described: Mapping[str, Any]
    stage: str | None = None
    parents: tuple[str, ...] = ()


def group_of(job: Job) -> str:
    """Returns a text that is equal for all jobs that differ only in their seed: the name of a configuration."""
    return canonical([job.kind, {name: table for name, table in job.identity.items() if name != "seed"}])
