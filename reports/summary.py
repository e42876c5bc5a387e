"""The summary table of a study: one row per cell with means over seeds, intervals and counts by status."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

from pruneyard.reports.cells import GEOMETRY, LABELS, label_cells
from pruneyard.reports.glossary import is_known
from pruneyard.reports.records import Status
from pruneyard.reports.statistics.intervals import half_width

_COMMON = ("accuracy", "nll", "brier", "ece", "ece_adaptive", "auroc", "aupr_in", "aupr_out", "fpr95", "fpr95_out")
_COUNTS = {
    "num_seeds": Status.COMPLETED,
    "censored": Status.PRUNED,
    "failed": Status.FAILED,
    "interrupted": Status.INTERRUPTED,
}
_COSTS = ("num_parameters", "num_active", "train_flops", "train_s")
_NARROW = ("accuracy", "nll", "ece", "auroc")
_NARROW_COSTS = ("num_active", "train_s")
MAX_NARROW = 4
"""Measures of a narrow table."""


def cells(runs: pa.Table, metrics: pa.Table, *, measures: Sequence[str] = ()) -> pd.DataFrame:
    """Returns one row per cell: labels, settings that differ, counts by status, and means over COMPLETED seeds.

    A measure is `split/name`; by default all of the test split, or of val if nothing was tested. For each
    there are the columns `test/accuracy` (mean over seeds of each run's last step), `test/accuracy_low` and
    `test/accuracy_high` (95% t interval; NaN on one seed). Where several runs rest on the same first run of a chain,
    their mean counts as one: only the first runs repeat independently. `num_active`, `train_flops`, `train_s` are means.
    A cell that no run completed has NaN. `frame.attrs` lists the `measures` and the `settings`.
    """
    finals = last_values(history(metrics))
    table = cell_table(label_cells(runs), finals, list(measures) or default_measures(finals))
    attrs = table.attrs
    table = table.drop(columns="cell")
    table.attrs = attrs
    return table


def narrow(table: pd.DataFrame) -> list[str]:
    """Returns the columns of the table of `cells` that a person reads first.

    These are the labels and settings that tell rows apart, the number of seeds, other outcomes if there are any, the main
    measures and those of the user's own with their intervals, and the costs that are known.
    """
    labels = [name for name in ("stage", "data", "model") if table[name].nunique(dropna=False) > 1]
    labels += [name for name in LABELS[2:] if (table[name].notna() & table[name].ne("")).any()]
    outcomes = [name for name in _COUNTS if name == "num_seeds" or table[name].any()]
    measures: list[str] = table.attrs["measures"]
    main = [measure for measure in measures if measure.partition("/")[2] in _NARROW or not is_known(measure)] or measures
    costs = [name for name in _NARROW_COSTS if table[name].notna().any()]
    values = [name for measure in main[:MAX_NARROW] for name in _three(measure)]
    return [*labels, *table.attrs["settings"], *outcomes, *values, *costs]


def cell_table(labelled: pd.DataFrame, finals: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Returns the table of `cells` from labelled runs and final values, with the column `cell` of `label_cells` first."""
    settings: list[str] = labelled.attrs["settings"]
    runs = pd.concat([labelled, _by_run(finals, measures, labelled["run_key"])], axis=1)
    shown = ["cell", *GEOMETRY[:2], *LABELS, *GEOMETRY[2:], *settings]
    columns = [*shown, *_COUNTS, *(name for measure in measures for name in _three(measure)), *_COSTS]
    table = _sorted(_rows(runs, shown, measures)[columns].reset_index(drop=True), stages=_stages(labelled))
    table.attrs = {"measures": list(measures), "settings": settings}
    return table


def last_values(history: pd.DataFrame) -> pd.DataFrame:
    """Returns the value of every measure at each run's last step: columns `run_key`, `measure`, `value`."""
    last = history.groupby(["run_key", "measure"], sort=False)["step"].transform("max")
    return history.loc[history["step"] == last, ["run_key", "measure", "value"]].reset_index(drop=True)


def history(metrics: pa.Table) -> pd.DataFrame:
    """Returns all metric rows with `measure` = `split/name`, one per run, step and measure.

    A resumed run has rows of several attempts; if two evaluated the same step, the newer one is kept.
    """
    frame = metrics.to_pandas()
    for name in ("run_key", "split", "name"):
        # Dictionary columns arrive as categoricals, which cannot be joined by `+` and do not sort by name.
        frame[name] = frame[name].astype("str")
    frame["measure"] = frame["split"] + "/" + frame["name"]
    ordered: pd.DataFrame = frame.sort_values(["run_key", "measure", "step", "attempt"], kind="stable")
    return ordered.drop_duplicates(["run_key", "measure", "step"], keep="last").reset_index(drop=True)


def default_measures(finals: pd.DataFrame) -> list[str]:
    """Returns all measures of the test and ood splits, or of val if nothing was tested, common ones first."""
    found = sorted(set(finals["measure"]), key=_rank)
    tested = [measure for measure in found if measure.partition("/")[0] in ("test", "ood")]
    return tested or [measure for measure in found if measure.startswith("val/")]


def _rank(measure: str) -> tuple[bool, int, str]:
    split, _, name = measure.partition("/")
    return split == "ood", _COMMON.index(name) if name in _COMMON else len(_COMMON), measure


def _three(measure: str) -> tuple[str, str, str]:
    return measure, f"{measure}_low", f"{measure}_high"


def _by_run(finals: pd.DataFrame, measures: Sequence[str], keys: pd.Series[str]) -> pd.DataFrame:
    """Returns a column per measure, in the order of `keys`; NaN for missing values."""
    columns = {}
    for measure in measures:
        chosen = finals[finals["measure"] == measure]
        values = dict(zip(chosen["run_key"], chosen["value"], strict=True))
        columns[measure] = [values.get(key, math.nan) for key in keys]
    return pd.DataFrame(columns, index=keys.index, dtype="float64")


def _rows(runs: pd.DataFrame, shown: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """Returns one row per cell, in their order; all cells at once, because a study may have thousands."""
    first = runs.drop_duplicates("cell").sort_values("cell")
    # By way of records, so that pandas infers types without the settings that only some cells have as None.
    rows = pd.DataFrame(first[list(shown)].to_dict("records"), index=first["cell"].to_numpy(), columns=list(shown))
    for name, status in _COUNTS.items():
        rows[name] = (runs["status"] == status).groupby(runs["cell"]).sum().astype(int)
    completed = runs[runs["status"] == Status.COMPLETED]
    # Runs that differ only in what is pooled are one repetition.
    rows["num_seeds"] = completed.groupby("cell")["repetition"].nunique().reindex(rows.index, fill_value=0)
    estimates = {
        name: values.reindex(rows.index)
        for measure in measures
        for name, values in zip(_three(measure), _estimates(completed, measure), strict=True)
    }
    rows = pd.concat([rows, pd.DataFrame(estimates, index=rows.index)], axis=1)
    for name in _COSTS:
        costs = completed[name].astype("float64")
        # NaN where any run lacks it: a mean over the runs that happen to have a cost would mislead.
        lost = costs.isna().groupby(completed["cell"]).any()
        rows[name] = costs.groupby(completed["cell"]).mean().mask(lost).reindex(rows.index)
    return rows


def _estimates(completed: pd.DataFrame, measure: str) -> tuple[pd.Series[float], pd.Series[float], pd.Series[float]]:
    """Returns mean and interval of every cell over its independent replicates; NaN if any of its runs lacks the measure."""
    values = completed[measure].astype("float64")
    # Runs that rest on the same first run count as one, by their mean.
    means = values.groupby([completed["cell"], completed["outer"]], sort=False).mean()
    grouped = means.groupby(level=0)
    lost = values.isna().groupby(completed["cell"]).any()
    mean = grouped.mean().mask(lost)
    half = pd.Series(half_width(grouped.std(), grouped.size()), index=mean.index)
    return mean, mean - half, mean + half


def _stages(labelled: pd.DataFrame) -> list[str]:
    """Returns the stages in the order of their start."""
    named = labelled[labelled["stage"].notna()]
    return list(named.groupby("stage", sort=False, observed=True)["started_at"].min().sort_values(kind="stable").index)


def _sorted(table: pd.DataFrame, *, stages: Sequence[str]) -> pd.DataFrame:
    """Sorts by stage, then data, model and method, from dense to sparse."""
    order = ["stage", "kind", "data", "model", "method", "density", "ipc"]
    ascending = [name != "density" for name in order]
    # Stages sort by their start, not by name.
    places = pd.Series([stages.index(stage) if stage in stages else None for stage in table["stage"]], dtype="float64")
    ordered: pd.DataFrame = table.assign(stage=places).sort_values(
        order, ascending=ascending, kind="stable", na_position="first"
    )
    # `assign` aligns by index, so each row gets its own stage back.
    return ordered.assign(stage=table["stage"]).reset_index(drop=True)
