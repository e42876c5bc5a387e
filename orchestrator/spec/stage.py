"""Defines a validated stage: its header, its jobs and its adaptive search."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pruneyard.orchestrator.spec.codec import short_json
from pruneyard.orchestrator.spec.job import MAX_JOBS, Job, Resources
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.orchestrator.spec.scheduler import Scheduler
from pruneyard.workloads.plugins import kinds
from pruneyard.workloads.user_code.nearest import nearest

if TYPE_CHECKING:
    from pruneyard.orchestrator.spec.search import Search

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
MAX_SEED = 2**63 - 1  # the run table stores seeds as int64


@dataclass(frozen=True, kw_only=True)
class Header:
    """The keys of a spec that are not those of a job."""

    name: str
    kind: str = field(metadata={"choices": kinds})
    seeds: int | tuple[int, ...] = 1
    variants: tuple[Mapping[str, Any], ...] = ()
    grid: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)  # see `pruneyard.orchestrator.spec.chosen_settings`
    scheduler: Scheduler = Scheduler()
    resources: Resources = Resources()

    def __post_init__(self) -> None:
        if isinstance(self.seeds, int):
            if not 1 <= self.seeds <= MAX_JOBS:
                raise ValueError(f"seeds is {self.seeds}; it must lie in 1 ... {MAX_JOBS}, or be a list of seeds")
        elif not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {short_json(list(self.seeds))}; it must list different whole numbers")
        elif not all(0 <= seed <= MAX_SEED for seed in self.seeds):
            raise ValueError(f"seeds is {short_json(list(self.seeds))}; every seed must lie in 0 ... {MAX_SEED}")
        if self.kind not in kinds():
            hint = nearest(self.kind, kinds()) or "; a file of your own adds one, by plugins: [FILE]"
            raise ValueError(f"kind is {short_json(self.kind)}; it must be one of {', '.join(kinds())}{hint}")
        if not NAME_PATTERN.fullmatch(self.name):
            rule = "letters, digits, '.', '_' and '-', 80 at most, the first a letter or digit"
            raise ValueError(f"name is {short_json(self.name)}; it must consist of {rule}")

    @property
    def seed_list(self) -> list[int]:
        """Returns the seeds; `seeds: 3` means 0, 1, 2."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)


@dataclass(frozen=True, kw_only=True)
class AdaptiveSearch:
    """A search whose later proposals depend on the results of earlier ones.

    identity: names the search in a folder; it changes with everything that changes its proposals or their meaning.
    propose: returns the jobs of each proposal.
    applies: returns the keys of a proposal that have an effect on at least one job.
    """

    search: "Search"
    identity: str
    propose: Callable[[Sequence[Mapping[str, Any]]], list[list[Job]]]
    applies: Callable[[Mapping[str, Any]], frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The jobs of one stage, or of a whole spec without stages.

    tables: as written in the spec.
    waits_for: why the jobs are not known yet, since a reference chooses among runs by their results; then `jobs` is empty.
    candidates: all that may become jobs of a stage with such a reference.
    places: knows where the keys of the tables stand in the document.
    learning: the adaptive search of the stage; then `jobs` holds the jobs proposed so far.
    """

    name: str | None
    header: Header
    jobs: tuple[Job, ...]
    tables: Mapping[str, Any]
    learning: AdaptiveSearch | None = None
    waits_for: str = ""
    candidates: tuple[Job, ...] = ()
    places: ProblemLog = field(default_factory=ProblemLog, compare=False, repr=False)
