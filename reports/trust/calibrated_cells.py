"""The calibrate runs of a study, grouped into cells: which input they calibrate, by which calibrator, and their values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pruneyard.reports.cells import FINGERPRINT
from pruneyard.reports.records import Status
from pruneyard.reports.statistics.intervals import estimate
from pruneyard.reports.study import CALIBRATE, DENSE, Study, is_of_parent

NEUTRAL = "none"
"""The calibrator that changes nothing."""
_NOT_CALIBRATION = ("method", "seed", "scores", "near", "far", "choose_on", "sets")
"""Settings that define neither the input that is calibrated nor the rows that it is calibrated on; see `_is_halved` for sets."""
_DEFAULT_BINS = 15
_DEFAULT_ALPHA = 0.1

Interval = tuple[float, float, float]
"""Mean over seeds and the ends of its 95% interval; NaN if missing, infinite if the value of a run is."""


@dataclass(frozen=True, kw_only=True)
class CalibratedCell:
    """One cell of calibrate runs. `base` identifies the calibrated input, `parent` describes it in words.

    `alphas` are the target error rates of its conformal rules, by rule. `parts` says whether an OOD set is near or far, by
    split. `num_rows` are the smallest and largest number of test samples of its runs.
    """

    cell: int
    base: str
    parent: str
    calibrator: str
    num_bins: int
    alphas: Mapping[str, float]
    parts: Mapping[str, str]
    num_rows: tuple[int, int]
    runs: pd.DataFrame
    """The completed runs: columns `run_key, seed, parent_key, outer`, indexed by run key."""


def calibrated_cells(study: Study) -> list[CalibratedCell]:
    """Returns every cell of completed calibrate runs, in the order of the summary."""
    runs = study.labelled
    runs = runs[(runs["kind"] == CALIBRATE) & (runs["status"] == Status.COMPLETED)]
    if runs.empty:
        return []
    cells = [int(cell) for cell in study.cells["cell"] if cell in set(runs["cell"])]
    firsts = runs.drop_duplicates("cell").set_index("cell")
    specs = {cell: _spec(run) for cell, (_, run) in zip(firsts.index.tolist(), firsts.iterrows(), strict=True)}
    parents = _parents(study, firsts, specs)
    rows = _num_rows(study)
    found = []
    for cell in cells:
        own = runs.loc[runs["cell"] == cell, ["run_key", "seed", "parent_key", "outer"]].set_index(
            "run_key", drop=False
        )
        counts = [rows[key] for key in own["run_key"] if key in rows]
        found.append(
            CalibratedCell(
                cell=cell,
                base=_base(specs[cell]),
                parent=parents[cell],
                calibrator=str(firsts.loc[cell, "method"]),
                num_bins=int(specs[cell].get("num_bins", _DEFAULT_BINS)),
                alphas={
                    str(rule.get("name")): float(rule.get("alpha", _DEFAULT_ALPHA))
                    for rule in _tables(specs[cell], "sets")
                },
                parts=_parts(specs[cell]),
                num_rows=(min(counts, default=0), max(counts, default=0)),
                runs=own,
            )
        )
    return found


def grouped_by_input(cells: Sequence[CalibratedCell]) -> list[CalibratedCell]:
    """Returns the cells ordered so that those on the same input are adjacent, the uncalibrated one first."""
    bases = list(dict.fromkeys(cell.base for cell in cells))
    return sorted(cells, key=lambda cell: (bases.index(cell.base), cell.calibrator != NEUTRAL))


def _spec(run: pd.Series[Any]) -> dict[str, Any]:
    text = run["identity_json"] if isinstance(run["identity_json"], str) else run["spec_json"]
    spec = json.loads(text)
    # Inputs on different data are different inputs.
    data = {str(key): value for key, value in run.items() if str(key).endswith(FINGERPRINT) and isinstance(value, str)}
    return {**spec, **data} if isinstance(spec, dict) else data


def _tables(spec: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    listed = spec.get(name)
    return [table for table in listed if isinstance(table, dict)] if isinstance(listed, list) else []


def _parts(spec: Mapping[str, Any]) -> dict[str, str]:
    """Returns `near` or `far` by split. Sets of the same name are numbered from 1, near ones first."""
    named = [(str(table.get("name")), part) for part in ("near", "far") for table in _tables(spec, part)]
    names = [name for name, _ in named]
    return {
        f"ood.{name}" if names.count(name) == 1 else f"ood.{name}-{names[: place + 1].count(name)}": part
        for place, (name, part) in enumerate(named)
    }


def _base(spec: Mapping[str, Any]) -> str:
    """Returns an identifier of the calibrators' input."""
    kept = {name: value for name, value in spec.items() if name not in _NOT_CALIBRATION}
    return json.dumps(kept | {"halved": _is_halved(spec)}, sort_keys=True)


def _parents(study: Study, firsts: pd.DataFrame, specs: Mapping[int, Mapping[str, Any]]) -> dict[int, str]:
    """Returns the input of each cell in words, limited to the settings in which the cells differ."""
    keys = [key for key in study.varying if is_of_parent(key) and firsts[key].nunique(dropna=False) > 1]
    descriptions = {cell: _in_words(study, firsts.loc[cell], keys) for cell in firsts.index}
    # Inputs that read alike may still differ in the rows that calibrators were fitted on; `_halved` says so.
    by_words: dict[str, set[str]] = {}
    for cell, words in descriptions.items():
        by_words.setdefault(words, set()).add(_base(specs[cell]))
    return {
        cell: " · ".join(part for part in (words, _halved(specs[cell], by_words[words])) if part)
        for cell, words in descriptions.items()
    }


def _in_words(study: Study, run: pd.Series[Any], keys: Sequence[str]) -> str:
    """Returns settings in words, the method first, names without their key: `rigl · density 0.1 · focal`."""
    ordered = sorted(keys, key=lambda key: not key.endswith("method.name"))
    if any(key.endswith("method.name") and run[key] == DENSE for key in ordered):
        ordered = [key for key in ordered if key != "density"]
    texts = []
    for key in ordered:
        value = run[key]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        text = f"{value:g}" if isinstance(value, float) else str(value)
        is_name = key in ("data", "model") or key.endswith(".name")
        name = study.names.get(key, key).removeprefix("input's ")
        texts.append(text if is_name else f"{name} {text}")
    return " · ".join(texts)


def _halved(spec: Mapping[str, Any], bases: set[str]) -> str:
    return "fitted on half of the held-out samples" if len(bases) > 1 and _is_halved(spec) else ""


def _is_halved(spec: Mapping[str, Any]) -> bool:
    """Returns whether the calibrator had half of the rows: conformal rules before their second revision took the other half."""
    return any(rule.get("revision", 1) < 2 for rule in _tables(spec, "sets"))


def _num_rows(study: Study) -> dict[str, int]:
    """Returns the number of test samples by run key, counted from the recorded reliability bins."""
    bins = study.test_bins
    return {str(key): int(count) for key, count in bins.groupby("run_key")["count"].sum().items()}


def values_of(study: Study, cell: CalibratedCell, measure: str) -> pd.Series[float]:
    """Returns the measure of every run of the cell, by run key; NaN for a run without it."""
    table = study.by_run
    return table[measure].reindex(cell.runs.index) if measure in table else pd.Series(math.nan, index=cell.runs.index)


def mean_of(study: Study, cell: CalibratedCell, measure: str) -> Interval:
    """Returns the mean over independent replicates; NaN if any run lacks the measure."""
    return over_outer(values_of(study, cell, measure), cell.runs["outer"])


def over_outer(values: pd.Series[float], outer: pd.Series[str]) -> Interval:
    """Returns the mean over independent replicates: runs that share the first run of a lineage count as one, by their mean."""
    # This mean skips NaN; the mask below makes a replicate missing if any of its runs is.
    means = values.groupby(outer, sort=False).mean()
    found = estimate(means.mask(values.isna().groupby(outer, sort=False).any()))
    return float(found.mean), float(found.low), float(found.high)
