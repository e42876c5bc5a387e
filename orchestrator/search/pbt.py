"""Population-based training in generations: the budget is cut into equal parts, and each run trains one part of a member.

A run of a later generation resumes from a finished run of the generation before: the member's own, or that of a better member
that replaces it. The members of a generation are written to a journal before they are trained. They depend on the seed and on
the results of earlier generations, not on which run was faster, on how many ran at once, or on how often the study was stopped.
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
    """The state of one search in one folder of results. Its journal has one entry for each generation: a list of members."""

    def __init__(self, learning: AdaptiveSearch, folder: RunFolder) -> None:
        self._learning, self._search, self._folder = learning, learning.search, folder
        self._journal = Journal(folder.path / "searches" / f"{learning.identity}.jsonl")
        self._generations = [[Member(**member) for member in entry["members"]] for entry in self._journal.lines()]

    @property
    def can_propose(self) -> bool:
        """Returns whether another generation follows."""
        return len(self._generations) < self._search.num_generations

    @property
    def num_left(self) -> int:
        """Returns the number of parts, over all members, that are not yet proposed."""
        return max(0, self._search.num_generations - len(self._generations)) * self._search.max_trials

    def jobs(self) -> list[Job]:
        """Returns the jobs of all generations so far, each once."""
        return list(
            {job.key: job for members in self.by_member() for jobs in members for job in jobs}.values()
        )

    def by_member(self) -> list[list[list[Job]]]:
        """Returns the jobs by generation and member.

        Jobs at the same index of two members differ only in the members' settings.
        """
        generations: list[list[list[Job]]] = []
        for number, members in enumerate(self._generations):
            proposed = self._learning.propose([self._values(member.at) for member in members])
            # Part of the run key of every job, so it must be computed the same way in each call.
            until = (number + 1) / self._search.num_generations
            parts = []
            for index, (member, jobs) in enumerate(zip(members, proposed, strict=True)):
                parents = [None] * len(jobs) if member.parent is None else generations[-1][member.parent]
                name = f"generation={number + 1} member={index + 1}"
                parts.append(
                    [_generation_job(job, parent, until, name) for job, parent in zip(jobs, parents, strict=True)]
                )
            generations.append(parts)
        return generations

    def _values(self, at: Mapping[str, Any]) -> dict[str, Any]:
        distributions = self._search.distributions
        return {
            key: values.choices[at[key]] if isinstance(values, Choices) else at[key]
            for key, values in distributions.items()
        }

    def propose(self) -> bool:
        """Proposes the next generation and returns whether it did: only if one follows and all runs so far are evaluated.

        Raises `UsageError` where a run does not report the search's metric.
        """
        if not self.can_propose:
            return False
        if not self._generations:
            members = first_members(self._search)
        else:
            results = ObjectiveValues(self._folder)
            jobs = self.by_member()
            if not all(
                results.statuses.get(job.key) in EVALUATED for members in jobs for one in members for job in one
            ):
                return False
            past = [
                [
                    # The journal holds no costs: they follow from the recorded runs.
                    replace(member, cost=self._cost(results, one))
                    for member, one in zip(members, of_members, strict=True)
                ]
                for members, of_members in zip(self._generations, jobs, strict=True)
            ]
            try:
                members = next_members(self._search, past)
            except ValueError as error:
                logger.warning("search %s ends: %s", self._search.name, error)
                return False
        entry = [{"at": dict(member.at), "parent": member.parent} for member in members]
        self._journal.append({"generation": len(self._generations), "members": entry})
        self._generations.append(members)
        return True

    def _cost(self, results: ObjectiveValues, jobs: list[Job]) -> float | None:
        """Returns the mean cost over a member's jobs, smaller is better; None where a job has no finite value."""
        ((metric, direction),) = self._search.directions.items()
        values = results.values(jobs, [metric])
        return (
            None
            if values is None or not math.isfinite(values[0])
            else values[0]
            if direction == "min"
            else -values[0]
        )


def _generation_job(job: Job, parent: Job | None, until: float, name: str) -> Job:
    """Returns the job that trains one part, up to the share `until`, and resumes from `parent` where there is one.

    Its identity names the parent by a digest of the parent's configuration, which runs with other seeds share.
    """
    segment = Segment(runs=() if parent is None else (parent.key,), until=until)
    workload = replace(job.workload, segment=segment)  # type: ignore[type-var]
    key = run_key(job.kind, workload)
    after = {} if parent is None else {"after": hashlib.sha256(group_of(parent).encode()).hexdigest()[:8]}
    return replace(
        job,
        key=key,
        label=f"{job.label} {name}",
        workload=workload,
        resolved=encode(workload),
        identity={**job.identity, "segment": {"until": until, **after}},
        parents=job.parents if parent is None else (*job.parents, parent.key),
    )
