"""A population that is trained in generations: the budget is cut into equal parts, and each run is a member's part.

A run of a later generation goes on from a finished run of the one before: the member's own, or that of a better member that
took its place. What each generation consists of is written down before it is trained. It rests on the seed and on how the
runs before it ended, not on which of them was faster, on how many ran at once, or on how often the study was stopped.
"""

import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pruneyard.orchestrator.coordination.journal import Journal
from pruneyard.orchestrator.search.objective_values import EVALUATED, ObjectiveValues
from pruneyard.orchestrator.search.pbt_step import Member, first_members, next_members
from pruneyard.orchestrator.spec.codec import encode
from pruneyard.orchestrator.spec.job import Job, group_of
from pruneyard.orchestrator.spec.run_key import run_key
from pruneyard.orchestrator.spec.search import Choices
from pruneyard.orchestrator.spec.stage import AdaptiveSearch
from pruneyard.reports.layout import RunFolder
from pruneyard.workloads.training.segment import Segment

logger = logging.getLogger(__name__)



class PBTSearch:
    """What a search has bred in one folder of results; the journal has one entry for each generation, a list of members."""

    def __init__(self, learning: AdaptiveSearch, folder: RunFolder) -> None:
        self._learning, self._search, self._folder = learning, learning.search, folder
        self._journal = Journal(folder.path / "searches" / f"{learning.identity}.jsonl")
        self._bred = [[Member(**member) for member in entry["members"]] for entry in self._journal.lines()]

    @property
    def goes_on(self) -> bool:
        """Whether there is to be another generation."""
        return len(self._bred) < self._search.num_generations

    @property
    def left(self) -> int:
        """Parts of members that are to be trained yet and are not proposed."""
        return max(0, self._search.num_generations - len(self._bred)) * self._search.max_trials

    def jobs(self) -> list[Job]:
        """Of all generations so far, each once."""
        return list(
            {job.key: job for members in self.by_member() for jobs in members for job in jobs}.values()
        )

    def by_member(self) -> list[list[list[Job]]]:
        """The jobs of each member of each generation; those at one place differ only in what the members differ in."""
        found: list[list[list[Job]]] = []
        for number, members in enumerate(self._bred):
            proposed = self._learning.propose([self._values(member.at) for member in members])
            until = (number + 1) / self._search.num_generations
            parts = []
            for which, (member, jobs) in enumerate(zip(members, proposed, strict=True)):
                begun = [None] * len(jobs) if member.parent is None else found[-1][member.parent]
                name = f"generation={number + 1} member={which + 1}"
                parts.append(
                    [_generation_job(job, parent, until, name) for job, parent in zip(jobs, begun, strict=True)]
                )
            found.append(parts)
        return found

    def _values(self, at: Mapping[str, Any]) -> dict[str, Any]:
        found = self._search.distributions
        return {
            key: values.choices[at[key]] if isinstance(values, Choices) else at[key]
            for key, values in found.items()
        }

    def propose(self) -> bool:
        """Another generation, if there is to be one and everything before it has ended. Raises `UsageError`."""
        if not self.goes_on:
            return False
        if not self._bred:
            members = first_members(self._search)
        else:
            ended = ObjectiveValues(self._folder)
            jobs = self.by_member()
            if not all(
                ended.statuses.get(job.key) in EVALUATED for members in jobs for one in members for job in one
            ):
                return False
            past = [
                [
                    replace(member, cost=self._cost(ended, one))
                    for member, one in zip(members, of_members, strict=True)
                ]
                for members, of_members in zip(self._bred, jobs, strict=True)
            ]
            try:
                members = next_members(self._search, past)
            except ValueError as error:
                logger.warning("search %s ends: %s", self._search.name, error)
                return False
        entry = [{"at": dict(member.at), "parent": member.parent} for member in members]
        self._journal.append({"generation": len(self._bred), "members": entry})
        self._bred.append(members)
        return True

    def _cost(self, ended: ObjectiveValues, jobs: list[Job]) -> float | None:
        """The mean over a member's jobs, of which less is better."""
        ((aim, way),) = self._search.directions.items()
        values = ended.values(jobs, [aim])
        return (
            None
            if values is None or not math.isfinite(values[0])
            else values[0]
            if way == "min"
            else -values[0]
        )


def _generation_job(job: Job, parent: Job | None, until: float, name: str) -> Job:
    """The part of a job's training that goes on from a run, or is the first one.

    Its identity tells of that run by a digest that its repetitions with other seeds share.
    """
    segment = Segment(runs=() if parent is None else (parent.key,), until=until)
    workload = replace(job.workload, segment=segment)  # type: ignore[type-var]
    key = run_key(job.kind, workload)
    begun = {} if parent is None else {"after": hashlib.sha256(group_of(parent).encode()).hexdigest()[:8]}
    return replace(
        job,
        key=key,
        label=f"{job.label} {name}",
        workload=workload,
        resolved=encode(workload),
        identity={**job.identity, "segment": {"until": until, **begun}},
        parents=job.parents if parent is None else (*job.parents, parent.key),
    )
