"""What the page's drawer tells about each run, as compact JSON: settings, final values, artifacts, errors and parents."""

from __future__ import annotations

import json
import math
from typing import Any

from pruneyard.reports.cells import flat_spec
from pruneyard.reports.glossary import cost_names, measure_title
from pruneyard.reports.study import Study

MAX_VALUES = 300_000
"""Final values on the page; of more, those of the first measures."""
_MAX_ERROR = 4_000
_COLUMNS = ("run_key", "cell", "seed", "status", "attempt", "parent_key", "wall_s", "train_s", "device", "artifact")


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
    columns["folder"] = [study.origins[key] for key in runs["run_key"]]
    return {
        "columns": columns,
        "measures": [measure_title(name) for name in measures],
        "train_time": cost_names(runs["kind"])["train_s"],
        "main": sum(name in study.measures[:4] for name in measures),
        "omitted": len(study.by_run.columns) - len(measures),
        "values": [[_plain(value) for value in values[name]] for name in measures],
        "labels": dict(zip(map(str, study.cells["cell"]), study.cells["label"], strict=True)),
        "shared": shared,
        "settings": settings,
        "errors": distinct,
        "folders": [str(folder.path) for folder in study.folders],
    }


def _measures(study: Study, num_runs: int) -> list[str]:
    """Returns the measures of the summary, then all others as far as `MAX_VALUES` allows."""
    names = dict.fromkeys([*study.measures, *study.by_run.columns])
    return [name for name in names if name in study.by_run][: max(MAX_VALUES // max(num_runs, 1), 1)]


def _settings(study: Study) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Returns the keys of the specs that all cells share, and for each cell the others."""
    first = study.labelled.drop_duplicates("cell")
    specs = {
        str(cell): {key: _text(value) for key, value in flat_spec(text).items()}
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
