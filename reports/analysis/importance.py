"""How much each hyperparameter matters for a metric: the evaluators of Optuna over the settings of a search or a grid."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pruneyard.reports.cells import flat_spec, is_detail
from pruneyard.reports.glossary import larger_is_better
from pruneyard.reports.records import Status
from pruneyard.reports.study import Study

EVALUATORS = ("fanova", "ped_anova")
MIN_SETTINGS = 10
"""Settings below which the evaluators' regression has too little to learn from."""
_WIDE = 50.0  # ratio of the largest to the smallest value from which a positive number counts on a logarithmic scale
_NUM_TREES, _SEED = 64, 0


class NoOptunaError(ImportError):
    """Raised where Optuna, which computes importances, is not installed."""


def importances(study: Study, measure: str, *, evaluator: str = "fanova") -> pd.DataFrame:
    """Returns one row per hyperparameter: `setting`, `importance`, `num_values`, `num_settings`, the most important first.

    Each setting of the study is one observation: the mean final `measure` over its completed seeds. Hyperparameters are the keys
    of the spec in which settings differ and that all of them have, as far as their values are numbers, words or yes and no.
    Importances sum to 1. `fanova` gives the share of the variance of a random forest's prediction that the hyperparameter
    explains alone and in interactions; `ped_anova` compares the distribution of its values among the best tenth with that
    among all, and so says what matters for being good.

    Raises `ValueError` for fewer than `MIN_SETTINGS` settings or two hyperparameters, and by `ped_anova` for a measure whose
    direction is not known; and `NoOptunaError`.
    Reference: Hutter, Hoos and Leyton-Brown, "An efficient approach for assessing hyperparameter importance", ICML 2014;
    Watanabe, Bansal and Hutter, "PED-ANOVA", IJCAI 2023.
    """
    if evaluator not in EVALUATORS:
        raise ValueError(f"evaluator is {evaluator!r}; it must be one of {', '.join(EVALUATORS)}")
    values, specs = observations(study, measure)
    keys = hyperparameters(specs)
    if len(values) < MIN_SETTINGS or len(keys) < 2:
        raise ValueError(
            f"{measure} is known of {len(values)} settings that differ in {len(keys)} common hyperparameters; importances need "
            f"{MIN_SETTINGS} settings and two hyperparameters"
        )
    larger = evaluator == "ped_anova" and larger_is_better(measure)  # the others do not ask what is good
    settings = [{key: spec[key] for key in keys} for spec in specs]
    shares = _evaluated(values, settings, evaluator=evaluator, larger_is_better=larger)
    rows = [
        {
            "setting": key,
            "importance": share,
            "num_values": len({str(spec[key]) for spec in specs}),
            "num_settings": len(values),
        }
        for key, share in sorted(shares.items(), key=lambda entry: -entry[1])
    ]
    return pd.DataFrame(rows)


def observations(study: Study, measure: str) -> tuple[list[float], list[Mapping[str, Any]]]:
    """Returns the mean final value of every setting that has one, and its spec by dotted keys."""
    runs = study.labelled[study.labelled["status"] == Status.COMPLETED]
    if measure not in study.by_run:
        return [], []
    values = runs["run_key"].map(study.by_run[measure]).astype("float64")
    means = values.groupby(runs["cell"]).mean()
    firsts = runs.drop_duplicates("cell").set_index("cell")["spec_json"]
    known = [cell for cell in means.index if math.isfinite(means[cell])]
    return [float(means[cell]) for cell in known], [flat_spec(firsts[cell]) for cell in known]


def hyperparameters(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the keys that all specs have with a plain value, and in which they differ."""
    common = [key for key in (specs[0] if specs else ()) if all(key in spec for spec in specs)]
    plain = [key for key in common if all(isinstance(spec[key], bool | int | float | str) for spec in specs)]
    return [key for key in plain if len({str(spec[key]) for spec in specs}) > 1 and not is_detail(key)]


def _evaluated(
    values: Sequence[float], settings: Sequence[Mapping[str, Any]], *, evaluator: str, larger_is_better: bool
) -> dict[str, float]:
    try:
        optuna = importlib.import_module("optuna")
        evaluators = importlib.import_module("optuna.importance")
    except ImportError as error:
        raise NoOptunaError("importances need Optuna, which `pip install 'pruneyard[search]'` installs") from error
    distributions = {key: _distribution(optuna.distributions, [each[key] for each in settings]) for key in settings[0]}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize" if larger_is_better else "minimize")
        trials = [
            optuna.trial.create_trial(params=_typed(each, distributions), distributions=distributions, value=value)
            for each, value in zip(settings, values, strict=True)
        ]
        study.add_trials(trials)
        if evaluator == "fanova":
            chosen = evaluators.FanovaImportanceEvaluator(n_trees=_NUM_TREES, seed=_SEED)
        else:
            chosen = evaluators.PedAnovaImportanceEvaluator()
        found = evaluators.get_param_importances(study, evaluator=chosen)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {key: float(share) for key, share in found.items()}


def _typed(setting: Mapping[str, Any], distributions: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a setting; those of categories as texts, which Optuna compares as they are."""
    return {key: str(value) if hasattr(distributions[key], "choices") else float(value) for key, value in setting.items()}


def _distribution(distributions: Any, values: Sequence[Any]) -> Any:
    if any(isinstance(value, bool | str) for value in values):
        return distributions.CategoricalDistribution(sorted({str(value) for value in values}))
    low, high = float(min(values)), float(max(values))
    return distributions.FloatDistribution(low, high, log=low > 0 and high / low >= _WIDE)
