"""A search in rounds whose proposals come from a sampler of Optuna: TPE or NSGA-II."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.search.objective_values import ObjectiveValues
from pruneyard.orchestrator.search.round_search import RoundSearch, value_at
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.search import Choices, Range

if TYPE_CHECKING:
    import optuna


class OptunaSearch(RoundSearch):
    """The state of one search with Optuna in one folder of results."""

    def _next_round(self, number: int, jobs: Sequence[Sequence[Job]], runs: ObjectiveValues) -> Mapping[str, Any]:
        """Raises `UsageError` where Optuna is not installed."""
        optuna = _optuna(self._search.name)
        study = self._study(optuna, jobs, runs)
        proposals = []
        for _ in range(number):
            trial = study.ask()
            at = self._sample(trial)
            # NSGA-II later finds its generations by these attributes.
            proposals.append({"at": at, "marks": study.trials[trial.number].system_attrs})
        return {"proposals": proposals}

    def _study(self, optuna: Any, jobs_by_proposal: Sequence[Sequence[Job]], runs: ObjectiveValues) -> Any:
        """Returns an Optuna study that holds all earlier proposals with their results, with a sampler seeded for this round.

        Each round builds a new study: the state of a sampler is not saved, so it must follow from the journal alone.
        """
        optuna_directions = {"max": "maximize", "min": "minimize"}
        digest = hashlib.sha256(f"round/{self._search.seed}/{self._round_number}".encode()).digest()
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
            here = {**self._values(at), key: value_at(values, 0) if isinstance(values, Choices) else values.low}
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
