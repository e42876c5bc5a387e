"""One resolved job, and the keys of a spec that are not the job's own."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.decode import shown
from orchestrator.schedulers import Scheduler
from workloads.plugins import kinds
from workloads.workload import Workload

if TYPE_CHECKING:
    from orchestrator.search import Search

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
MAX_JOBS = 100_000
MAX_SEED = 2**63 - 1  # what the column of records holds


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


@dataclass(frozen=True, kw_only=True)
class Header:
    """The keys of a spec that are not the job's own."""

    name: str
    kind: str
    seeds: int | tuple[int, ...] = 1
    variants: tuple[Mapping[str, Any], ...] = ()
    grid: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Scheduler = Scheduler()
    resources: Resources = Resources()

    def __post_init__(self) -> None:
        if isinstance(self.seeds, int):
            if not 1 <= self.seeds <= MAX_JOBS:
                raise ValueError(f"seeds is {self.seeds}; it must lie in 1 ... {MAX_JOBS}, or be a list of seeds")
        elif not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {shown(list(self.seeds))}; it must list different whole numbers")
        elif not all(0 <= seed <= MAX_SEED for seed in self.seeds):
            raise ValueError(f"seeds is {shown(list(self.seeds))}; every seed must lie in 0 ... {MAX_SEED}")
        if self.kind not in kinds():
            raise ValueError(f"kind is {shown(self.kind)}; it must be one of {', '.join(kinds())}")
        if not NAME_PATTERN.fullmatch(self.name):
            rule = "letters, digits, '.', '_' and '-', 80 at most, the first a letter or digit"
            raise ValueError(f"name is {shown(self.name)}; it must consist of {rule}")

    @property
    def seed_list(self) -> list[int]:
        """`seeds: 3` means 0, 1, 2."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)


@dataclass(frozen=True, kw_only=True)
class Learning:
    """A search whose proposals rest on results.

    identity: names the search in a folder; it changes with whatever changes its proposals or what they mean.
    propose: the jobs of each proposal. applies: the keys of a proposal that have an effect on some job.
    """

    search: "Search"
    identity: str
    propose: Callable[[Sequence[Mapping[str, Any]]], list[list[Job]]]
    applies: Callable[[Mapping[str, Any]], frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Jobs that are planned together: a whole spec, or one link of its chain. `tables` are as written.

    With `learning` the jobs are those proposed so far.
    """

    name: str | None
    header: Header
    jobs: tuple[Job, ...]
    tables: Mapping[str, Any]
    learning: Learning | None = None
