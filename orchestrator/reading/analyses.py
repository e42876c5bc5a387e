"""Analyses of a study by name, for `Results.analyze` and the command: which there are, and what each may be given."""

import inspect
from collections.abc import Callable, Mapping

import pandas as pd

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.reading.metric_names import check_recorded
from pruneyard.reports.analysis.aggregates import aggregates, profiles
from pruneyard.reports.analysis.front import front_points, hypervolumes
from pruneyard.reports.analysis.importance import NoOptunaError, importances
from pruneyard.reports.analysis.reaching import reached_by_setting
from pruneyard.reports.analysis.variances import variance_by_level
from pruneyard.reports.study import Study
from pruneyard.workloads.user_code.nearest import nearest

ANALYSES: Mapping[str, Callable[..., pd.DataFrame]] = {
    "importance": importances,
    "aggregates": aggregates,
    "profile": profiles,
    "time-to-target": reached_by_setting,
    "variance": variance_by_level,
    "front": front_points,
    "hypervolume": hypervolumes,
}


def analysis(study: Study, kind: str, *, metric: str | None = None, **options: str | float | None) -> pd.DataFrame:
    """Returns the table of an analysis.

    metric: by default the first one of the summary, and for time-to-target the same name on `val`. options: `target`, `cost` and
    `evaluator`, for the analyses that take them; None for their defaults.

    Raises `UsageError` for an analysis, a metric or an option that there is not, and where the study has too little for it.
    """
    if kind not in ANALYSES:
        raise UsageError(f"{kind}: there is no such analysis; it must be one of {', '.join(ANALYSES)}{nearest(kind, ANALYSES)}")
    function = ANALYSES[kind]
    given = {name: value for name, value in options.items() if value is not None}
    taken = [name for name in inspect.signature(function).parameters if name not in ("study", "measure")]
    for name in given:
        if name not in taken:
            allowed = f"takes {' and '.join(taken)}" if taken else "takes no option beside the metric"
            raise UsageError(f"{name}: analysis {kind} {allowed}")
    measure = metric or _default_measure(study, kind)
    check_recorded([measure], measures=set(study.history["measure"]))
    try:
        return function(study, measure, **given)
    except (ValueError, NoOptunaError) as error:
        raise UsageError(str(error)) from error


def _default_measure(study: Study, kind: str) -> str:
    first = next(iter(study.measures), None)
    if first is None:
        raise UsageError("metric: no run has recorded any")
    on_val = f"val/{first.partition('/')[2]}"
    return on_val if kind == "time-to-target" and on_val in study.by_run else first
