"""A search with Optuna that runs in rounds: propose a batch, train it, give Optuna the results, propose the next batch.

The proposals of a round depend only on its number, the seed and the results of all earlier rounds in the order in which they
were proposed. They do not depend on which trial was faster, on how many ran at once, or on how often the study was stopped.
Proposals are written to a journal before the first of them is trained, so a later call resumes with the same ones.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pruneyard.orchestrator.coordination.journal import Journal
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.search.objective_values import EVALUATED, ObjectiveValues
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.search import Choices, Range
from pruneyard.orchestrator.spec.stage import AdaptiveSearch
from pruneyard.reports.layout import RunFolder

if TYPE_CHECKING:
    import optuna


class OptunaSearch:
    """The state of one search in one folder of results.

    Entries of its journal are `{"proposals": [{"at", "marks"}, ...]}` for each round and `{"seconds"}` for the time it took. `at`
    holds a number of a range or the index of a choice for each key, `marks` the attributes that the sampler stores with a trial.
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
        return self._learning.propose([self._values(proposal["at"]) for proposal in self._proposed])

    def _values(self, at: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the value of each key: a range holds the number itself, choices hold an index."""
        found = self._search.distributions
        return {key: _value(found[key], place) for key, place in at.items()}

    def propose(self) -> bool:
        """Proposes another round and returns whether it did: only if the search may continue and all proposed runs are evaluated.

        Raises `UsageError` where Optuna is not installed or a run does not report an objective.
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
        optuna = _optuna(self._search.name)
        study = self._study(optuna, jobs_by_proposal, runs)
        number = min(self._search.num_at_once, self.num_left)
        proposals = []
        for _ in range(number):
            trial = study.ask()
            at = self._sample(trial)
            # NSGA-II later finds its generations by these attributes.
            proposals.append({"at": at, "marks": study.trials[trial.number].system_attrs})
        self._write({"proposals": proposals})
        self._round_start = time.monotonic()
        return True

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._journal.append(entry)
        self._entries.append(entry)

    def _study(self, optuna: Any, jobs_by_proposal: Sequence[Sequence[Job]], runs: ObjectiveValues) -> Any:
        """Returns an Optuna study that holds all earlier proposals with their results, with a sampler seeded for this round.

        Each round builds a new study: the state of a sampler is not saved, so it must follow from the journal alone.
        """
        optuna_directions = {"max": "maximize", "min": "minimize"}
        number = sum("proposals" in entry for entry in self._entries)
        digest = hashlib.sha256(f"round/{self._search.seed}/{number}".encode()).digest()
        # Four bytes: the samplers seed NumPy's `RandomState`, which takes 32 bits.
        seed = int.from_bytes(digest[:4])
        if self._search.name == "nsga2":
            sampler = optuna.samplers.NSGAIISampler(population_size=self._search.num_at_once, seed=seed)
        else:
            sampler = optuna.samplers.TPESampler(seed=seed)
        directions = [optuna_directions[direction] for direction in self._search.directions.values()]
        study = optuna.create_study(sampler=sampler, directions=directions)
        distributions = {
            key: _distribution(optuna, values) for key, values in self._search.distributions.items()
        }
        for proposal, jobs in zip(self._proposed, jobs_by_proposal, strict=True):
            values = runs.values(jobs, list(self._search.directions))
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.COMPLETE if values else optuna.trial.TrialState.FAIL,
                    values=values,
                    params=proposal["at"],
                    distributions={key: distributions[key] for key in proposal["at"]},
                    system_attrs=proposal["marks"],
                )
            )
        return study

    def _sample(self, trial: "optuna.Trial") -> dict[str, Any]:
        """Samples a value for each key of the space.

        Tables come first, so that TPE samples only the keys that the chosen tables have. NSGA-II recombines whole vectors, so it
        samples all keys.
        """
        found, at = self._search.distributions, dict[str, Any]()
        for key in sorted(
            found, key=lambda key: (key.removesuffix(".name").count("."), not isinstance(found[key], Choices))
        ):
            values = found[key]
            # Any value of the key serves here: whether the key applies depends on the tables chosen so far.
            here = {**self._values(at), key: _value(values, 0) if isinstance(values, Choices) else values.low}
            if self._search.name == "tpe" and key not in self._learning.applies(here):
                continue
            if isinstance(values, Choices):
                # By index, because a choice may be a table and Optuna's categories are plain values.
                at[key] = trial.suggest_categorical(key, range(len(values.choices)))
            elif values.int:
                at[key] = trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
            else:
                # Later rounds give Optuna the rounded number of the journal, which is the one that was trained.
                at[key] = values.rounded(trial.suggest_float(key, values.low, values.high, log=values.log))
        return at


def _value(values: Range | Choices, place: Any) -> Any:
    return values.choices[place] if isinstance(values, Choices) else place


def _distribution(optuna: Any, values: Range | Choices) -> Any:
    if isinstance(values, Choices):
        return optuna.distributions.CategoricalDistribution(range(len(values.choices)))
    if values.int:
        return optuna.distributions.IntDistribution(int(values.low), int(values.high), log=values.log)
    return optuna.distributions.FloatDistribution(values.low, values.high, log=values.log)


def _optuna(name: str) -> Any:
    """Imports and returns Optuna. Raises `UsageError` where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            f"search.name: is {name}, which needs Optuna; pip install 'pruneyard[search]'"
        ) from error
    # Otherwise Optuna logs a line for each study, and every round creates one.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
