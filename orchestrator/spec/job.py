"""One resolved job, and the keys of a spec that are not the job's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruneyard.workloads.workload import Workload

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

from pruneyard.orchestrator.spec.run_key import canonical

if TYPE_CHECKING:
    pass


MAX_JOBS = 100_000


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial takes: so many workers, each with these CPUs and GPUs.

    workers: ranks that train one network together, each on its share of every batch, which stays what it is.
    strategy: how they do it. `ddp`: each holds a whole copy of the network, and they average their gradients.
    cpus: also the number of a worker's torch threads.
    """

    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0  # a fraction shares one GPU among several workers or trials
    strategy: str = "ddp"
    place_within_s: float = 300.0  # on a cluster, how long trials wait for room while none runs, before the study ends

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be 1 or more")
        if not self.place_within_s > 0:
            raise ValueError(f"place_within_s is {self.place_within_s}; it must be above 0")
        if self.strategy != "ddp":
            why = ""
            if self.strategy.startswith("fsdp"):
                why = (
                    ": masks, their updates and gradient rules look at whole weights on every worker, which FSDP splits "
                    "among them, and the networks here leave most of a device's memory free"
                )
            raise ValueError(f"strategy is {self.strategy}; it must be ddp{why}")
        if self.cpus < 1:
            raise ValueError(f"cpus is {self.cpus}; it must be 1 or more")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(f"gpus is {self.gpus}; it must be a fraction up to 1, or a whole number")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One resolved job and its identity."""

    key: str
    kind: str
    workload: Workload
    resolved: Mapping[str, Any]  # plain data, every default filled in
    identity: Mapping[str, Any]  # the part of it that the key is a hash of; runs it rests on are described, not named
    label: str  # short, for people; no other job of the spec has it
    described: Mapping[str, Any]  # data, model, method, density and ipc, for the run table
    stage: str | None = None
    parents: tuple[str, ...] = ()  # keys of the runs it rests on


def group_of(job: "Job") -> str:
    """One text for all jobs that differ in nothing but their seed."""
    return canonical([job.kind, {name: table for name, table in job.identity.items() if name != "seed"}])
