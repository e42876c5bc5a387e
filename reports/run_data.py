"""Collects what the page's drawer shows of each run, as compact JSON: settings, final values, artifacts, errors and parents."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd

from pruneyard.reports.cells import flat_spec
from pruneyard.reports.charts.figure import config
from pruneyard.reports.charts.learning import further_curves
from pruneyard.reports.glossary import bounds, cost_names, measure_title
from pruneyard.reports.leading import CHOSEN_BY
from pruneyard.reports.statistics.intervals import half_width
from pruneyard.reports.study import Study

MAX_VALUES = 300_000
"""Final values on the page; of more, those of the first measures."""
_MAX_ERROR = 4_000
_COLUMNS = ("run_key", "cell", "seed", "status", "attempt", "parent_key", "wall_s", "train_s", "device", "artifact")
_COUNTS = ("num_active", "train_flops")
MAX_CURVE_VALUES = 60_000
"""Points of all curves on the page together; of more, fewer for each run."""
MAX_POINTS, _FEWEST_POINTS = 30, 4


def run_data(study: Study) -> dict[str, Any]:
    """Returns the runs by column, their settings as far as cells differ in them, and what all runs have in common.

    Texts that repeat, such as errors, are listed once and referred to by number.
    """
    runs = study.labelled
    measures = _measures(study, len(runs))
    values = study.by_run.reindex(index=runs["run_key"], columns=measures)
    shared, settings = _settings(study)
    errors = [text[-_MAX_ERROR:] if isinstance(text, str) else None for text in runs["error"]]
    distinct = list(dict.fromkeys(text for text in errors if text is not None))
    number = {text: place for place, text in enumerate(distinct)}
    columns = {name: [_plain(value) for value in runs[name]] for name in _COLUMNS}
    columns["error"] = [None if text is None else number[text] for text in errors]
    columns["started_at"] = [f"{time:%Y-%m-%d %H:%M}" for time in runs["started_at"]]
    columns |= {name: [_plain(value) for value in runs[name]] for name in _COUNTS}
    columns["data"] = [str(name) for name in runs["data"]]
    columns["data_fingerprint"] = [text[:12] if isinstance(text, str) else None for text in runs["data_fingerprint"]]
    columns["outer"] = [int(place) for place in pd.factorize(runs["outer"])[0]]
    columns["pooled"] = list(runs["pooled"])
    columns["folder"] = [study.origins[key] for key in runs["run_key"]]
    return {
        "columns": columns,
        "measures": [measure_title(name) for name in measures],
        "headline": None if study.main_measure is None else measure_title(study.main_measure),
        "train_time": cost_names(runs["kind"])["train_s"],
        "main": sum(name in study.measures[:4] for name in measures),
        "bounds": [[_plain(bound) for bound in bounds(name)] for name in measures],
        # half_width is t times the deviation over the root of the number
        "t_quantiles": [round(float(half_width(num**0.5, num)), 6) for num in range(2, _most_repetitions(runs) + 1)],
        "omitted": len(study.by_run.columns) - len(measures),
        "values": [[_plain(value) for value in values[name]] for name in measures],
        "labels": dict(zip(map(str, study.cells["cell"]), study.cells["label"], strict=True)),
        "shared": shared,
        "settings": settings,
        "errors": distinct,
        "curve": _curves(study),
        "learning": further_curves(study),
        "config": config("legend"),
        "folders": [str(folder.path) for folder in study.folders],
    }


def _most_repetitions(runs: pd.DataFrame) -> int:
    """Returns the number of independent repetitions of the cell that has most."""
    return int(runs.groupby("cell")["outer"].nunique().max())


def _curves(study: Study) -> dict[str, Any] | None:
    """Returns the evaluations of every run, thinned out evenly: `title`, lists of `steps`, and per run its list and `values`.

    The measure is the first of `leading.CHOSEN_BY`, or else the first one that runs evaluated more than once; None without any.
    """
    history = study.history.dropna(subset=["value"])
    repeated = history.loc[history.duplicated(["run_key", "measure"]), "measure"].unique()
    measure = next((name for name in (*CHOSEN_BY, *repeated) if name in set(repeated)), None)
    if measure is None:
        return None
    points = history[history["measure"] == measure].sort_values(["run_key", "step"], kind="stable")
    keys = list(study.labelled["run_key"])
    most = max(_FEWEST_POINTS, min(MAX_POINTS, MAX_CURVE_VALUES // max(len(keys), 1)))
    by_run = {key: (own["step"].to_numpy(), own["value"].to_numpy()) for key, own in points.groupby("run_key", sort=False)}
    numbers: dict[tuple[int, ...], int] = {}
    of: list[int | None] = []
    values: list[list[Any]] = []
    for key in keys:
        steps, own = by_run.get(key, (np.empty(0), np.empty(0)))
        kept = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int)) if len(steps) else np.empty(0, dtype=int)
        at = tuple(int(step) for step in steps[kept])
        of.append(numbers.setdefault(at, len(numbers)))
        values.append([float(f"{value:.4g}") for value in own[kept]])
    return {"title": measure_title(measure), "steps": [list(steps) for steps in numbers], "of": of, "values": values}


def _measures(study: Study, num_runs: int) -> list[str]:
    """Returns the measures of the summary, then all others as far as `MAX_VALUES` allows."""
    names = dict.fromkeys([*study.measures, *study.by_run.columns])
    return [name for name in names if name in study.by_run][: max(MAX_VALUES // max(num_runs, 1), 1)]


def _settings(study: Study) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Returns the keys of the specs that all cells share, and for each cell the others."""
    first = study.labelled.drop_duplicates("cell")
    specs = {
        str(cell): {key: _text(value) for key, value in study.pooled.without(flat_spec(text)).items()}
        for cell, text in zip(first["cell"], first["spec_json"], strict=True)
    }
    keys = dict.fromkeys(key for spec in specs.values() for key in spec)
    shared = {key for key in keys if len({spec.get(key) for spec in specs.values()}) == 1}
    example: dict[str, str] = next(iter(specs.values()), {})
    return (
        {key: value for key, value in example.items() if key in shared},
        {cell: {key: value for key, value in spec.items() if key not in shared} for cell, spec in specs.items()},
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain(value: Any) -> str | int | float | None:
    """Returns a value as JSON has it; None for what is missing or not finite."""
    if isinstance(value, str):
        return value
    if value is None or not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")
