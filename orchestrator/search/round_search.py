"""A search that runs in rounds: propose a batch, train it, and propose the next batch from the results.

The proposals of a round depend only on its number, the seed and the results of all earlier rounds in the order in which they
were proposed. They do not depend on which trial was faster, on how many ran at once, or on how often the study was stopped.
Proposals are written to a journal before the first of them is trained, so a later call resumes with the same ones.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from pruneyard.orchestrator.coordination.journal import Journal
from pruneyard.orchestrator.search.equal_jobs import equal_jobs
from pruneyard.orchestrator.search.objective_values import EVALUATED, ObjectiveValues
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.search import Choices, Range
from pruneyard.orchestrator.spec.stage import AdaptiveSearch
from pruneyard.reports.layout import RunFolder


class RoundSearch(ABC):
    """The state of one search in one folder of results.

    Entries of its journal are `{"proposals": [{"at", "marks"}, ...]}` for each round and `{"seconds"}` for the time it took. `at`
    holds a number of a range or the index of a choice for each key, `marks` what the sampler stores with a trial. With
    `skip_equal` a round also has `equal`: the run key of the earlier job by that of each proposed one that computes the same.
    """

    def __init__(self, learning: AdaptiveSearch, folder: RunFolder) -> None:
        self._learning, self._search, self._folder = learning, learning.search, folder
        self._journal = Journal(folder.path / "searches" / f"{learning.identity}.jsonl")
        self._entries = self._journal.lines()
        self._round_start = time.monotonic()

    @property
    def _proposed(self) -> list[Mapping[str, Any]]:
        return [proposal for entry in self._entries for proposal in entry.get("proposals", [])]

    @property
    def num_left(self) -> int:
        """Returns the number of proposals that may still be made."""
        return max(0, self._search.max_trials - len(self._proposed))

    @property
    def can_propose(self) -> bool:
        """Returns whether there may be another round: neither `max_trials` nor `max_time` is used up."""
        spent = sum(entry.get("seconds", 0.0) for entry in self._entries)
        return self.num_left > 0 and (self._search.max_time is None or spent < self._search.max_time)

    def jobs(self) -> list[Job]:
        """Returns the jobs of all proposals, each once."""
        return list({job.key: job for jobs in self._jobs_by_proposal() for job in jobs}.values())

    def _jobs_by_proposal(self) -> list[list[Job]]:
        """Returns the jobs of each proposal; an earlier job in place of one that computes the same."""
        proposed = self._learning.propose([self._values(proposal["at"]) for proposal in self._proposed])
        equal = {key: earlier for entry in self._entries for key, earlier in entry.get("equal", {}).items()}
        known = {job.key: job for jobs in proposed for job in jobs}
        return [[known[equal.get(job.key, job.key)] for job in jobs] for jobs in proposed]

    def _values(self, at: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the value of each key: a range holds the number itself, choices hold an index."""
        found = self._search.distributions
        return {key: value_at(found[key], place) for key, place in at.items()}

    def propose(self) -> bool:
        """Proposes another round and returns whether it did: only if the search may continue and all proposed runs are evaluated.

        Raises `UsageError` where a package is not installed or a run does not report an objective.
        """
        jobs_by_proposal = self._jobs_by_proposal()
        runs = ObjectiveValues(self._folder)
        if not all(runs.statuses.get(job.key) in EVALUATED for jobs in jobs_by_proposal for job in jobs):
            return False
        # Only once per round: an earlier call may have written the time before it stopped.
        if self._entries and "proposals" in self._entries[-1]:
            self._write({"seconds": time.monotonic() - self._round_start})
        if not self.can_propose:
            return False
        entry = self._next_round(min(self._search.num_at_once, self.num_left), jobs_by_proposal, runs)
        if self._search.skip_equal:
            new = self._learning.propose([self._values(proposal["at"]) for proposal in entry["proposals"]])
            equal = equal_jobs([job for jobs in (*jobs_by_proposal, *new) for job in jobs])
            entry = {**entry, "equal": equal}
        self._write(entry)
        self._round_start = time.monotonic()
        return True

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._journal.append(entry)
        self._entries.append(entry)

    @property
    def _round_number(self) -> int:
        return sum("proposals" in entry for entry in self._entries)

    @abstractmethod
    def _next_round(self, number: int, jobs: Sequence[Sequence[Job]], runs: ObjectiveValues) -> Mapping[str, Any]:
        """Returns the journal entry of the next round, with this number of `proposals`. jobs: of each proposal so far."""
        ...


def value_at(values: Range | Choices, place: Any) -> Any:
    """Returns the value of a key at a place of the journal: the number of a range, the choice at an index."""
    return values.choices[place] if isinstance(values, Choices) else place
