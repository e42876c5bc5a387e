"""Compares settings: differences paired by seed, with intervals, and p-values corrected for the number of comparisons."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pruneyard.reports.cells import LABELS, pairing
from pruneyard.reports.glossary import LARGER_IS_BETTER
from pruneyard.reports.records import Status
from pruneyard.reports.statistics.aggregates import probability_of_improvement, stratified_bootstrap
from pruneyard.reports.statistics.differences import (
    all_pairs,
    equivalence_test,
    holm,
    seeds_to_separate,
    sign_flip_test,
    t_test,
)
from pruneyard.reports.statistics.intervals import Floats, estimate
from pruneyard.reports.study import DENSE, Study

LEVEL = 0.05
"""Settings differ where the corrected p-value is below it."""
UNKNOWN_DIRECTION = "different; which is better is not known"
"""The verdict where settings differ in a measure of which it is not known whether more is better."""
_Row = Mapping[str, Any]  # a cell of the study
_Pair = tuple[_Row, _Row]
_NO_VALUES = pd.DataFrame({"outer": [], "outer_seed": [], "pooled": [], "value": []})
Selection = Mapping[str, Any]
"""The value that each column of the summary must have, such as `{"method": "rigl", "density": 0.1}`."""


def paired_differences(
    study: Study, a: Selection, b: Selection, measures: Sequence[str], *, margin: float | None = None
) -> pd.DataFrame:
    """Returns one row per measure and pair of settings: both means, and the mean difference a - b with its 95% t interval.

    Settings of `a` are compared with those of `b` that agree with them in all columns but those that both selections name; a
    column that only one of them has, such as the schedule of a method, need not agree, nor does the density of the dense network,
    nor what was chosen for each setting on its own, such as its learning rate (`settings` with `best`).
    Naming stages names their kinds of jobs too, and methods of two kinds need not agree: merges are compared with trainings.

    Repetitions are paired by the first run of their lineage where the sides share it, as two calibrators of one network do,
    else by the seed of that run. `num_pairs` counts the pairs, `num_won` those in which a is better; with fewer than two there is
    no interval. `num_missing` counts further pairs of completed runs that lack a finite value, such as an infinite NLL: without
    them the others say nothing, so there is no p-value.
    `p_value` is that of the paired t test, `p_corrected` the same corrected by Holm for all rows. `better` is the side whose
    value is better where `p_corrected` is below 0.05. Equal differences of all pairs say nothing about their spread: they have no
    p-value and name no side. `p_sign_flip` is the p-value of the sign-flip test, which assumes no normal distribution, and
    `probability_better` the probability that a run of a is better than one of b, paired or not. `pairs_needed` is the number of
    pairs at which the interval would exclude 0 if mean and deviation stayed what they are; intervals are not corrected for the
    number of rows. `bootstrap_low` and `bootstrap_high` are the ends of a 95% percentile bootstrap over pairs, which assumes no
    normal distribution, but is too narrow for a few pairs. `verdict` says the result in words.

    With several folders, `folder_a` and `folder_b` name those that have runs of each side.

    margin: a difference, in the unit of the measure, that does not matter. `p_equivalent` is then the p-value of the equivalence
    test, corrected by Holm for all rows, and where it is below 0.05 the verdict says so.

    Raises `ValueError` for a column or value that no setting has, and if no two settings can be compared.
    """
    sides = {"a": _selected(study, a, "a"), "b": _selected(study, b, "b")}
    keys = _compared_keys(study, set(a) & set(b))
    pairs = _pairs(study, sides["a"], sides["b"], keys)
    if not pairs:
        raise ValueError(
            f"no setting of a agrees with one of b in {', '.join(keys)}; name one of these columns on both sides, or select fewer"
        )
    return _table(study, pairs, measures, margin)


def against_baseline(
    study: Study,
    baseline: Selection,
    measures: Sequence[str],
    *,
    only: Selection | None = None,
    cells: Collection[int] | None = None,
    margin: float | None = None,
) -> pd.DataFrame:
    """Returns one row per measure and setting, compared with the baseline, in the columns of `paired_differences`.

    Each setting (`a`) is compared with the setting of the baseline (`b`) that agrees with it in all columns but those that
    `baseline` names and those that only one of the two has; where it names a stage, the kinds of jobs may differ, as those of a
    soup and a training do. The dense network is a reference for sparse ones and no competitor, so it is compared with dense ones
    only. only: the values that columns of the compared settings must have. cells: those that are compared; by default all.

    Raises `ValueError` for a column or value that no setting has, and if no setting agrees with the baseline.
    """
    of_baseline = _selected(study, baseline, "the baseline")
    others = study.cells if not only else _selected(study, only, "the selection")
    others = others[~others["cell"].isin(of_baseline["cell"])]
    if cells is not None:
        others = others[others["cell"].isin(cells)]
    keys = _compared_keys(study, baseline)
    pairs = _without_reference(_pairs(study, others, of_baseline, keys))
    if not pairs:
        shown = ", ".join(f"{key}={value}" for key, value in baseline.items())
        shared = ", ".join(keys) or "anything"
        raise ValueError(f"no other setting agrees with the baseline {shown} in {shared}; choose another baseline")
    return _table(study, pairs, measures, margin)


def against_leaders(study: Study, leader_of: Mapping[int, int], measures: Sequence[str]) -> pd.DataFrame:
    """Returns one row per measure and cell of `leader_of`, compared with its leader, in the columns of `paired_differences`.

    Which setting leads is a choice among all of them, so `p_corrected` is corrected for all pairs of settings with one leader.
    """
    rows = {int(row["cell"]): row for row in _rows(study.cells)}
    sizes = Counter(leader_of.values())  # of each group, without its leader
    num_pairs = sum(size * (size + 1) // 2 for size in sizes.values())
    return _table(
        study,
        [(rows[cell], rows[leader]) for cell, leader in leader_of.items()],
        measures,
        None,
        correct=lambda p_values: all_pairs(p_values, num_pairs=num_pairs * len(measures)),
    )


def matched_cells(study: Study, baseline: Selection) -> dict[int, int]:
    """Returns the cell of the baseline that each cell is compared with, the first of several; cells without one are left out."""
    of_baseline = _selected(study, baseline, "the baseline")
    pairs = _without_reference(_pairs(study, study.cells, of_baseline, _compared_keys(study, baseline)))
    return {int(one["cell"]): int(other["cell"]) for one, other in reversed(pairs)}


def verdict(row: pd.Series[Any]) -> str:
    """Returns what a row of the comparison says, in words."""
    num_missing = row.get("num_missing", 0)
    if not row["num_pairs"]:
        return "no pair has both values" if num_missing else "no common seeds"
    if num_missing:
        return f"{num_missing:.0f} of {row['num_pairs'] + num_missing:.0f} pairs have no finite value"
    is_equivalent = row.get("p_equivalent", math.nan) < LEVEL
    if isinstance(row["better"], str):
        word = "better" if row["better"] == "a" else "worse"
        return f"{word}, by less than {row['margin']:g}" if is_equivalent else word
    if is_equivalent:
        return f"equivalent within ± {row['margin']:g}"
    if row["num_pairs"] < 2:
        return "one seed: no interval"
    if math.isnan(row["p_value"]):
        return "the same difference for every seed"
    if row.get("p_corrected", math.nan) < LEVEL:
        return UNKNOWN_DIRECTION
    if row["p_value"] < LEVEL:
        return "not separable after correction for all rows"
    seeds = f"not separable with {row['num_pairs']:.0f} seeds"
    if not math.isnan(row["pairs_needed"]) and row["pairs_needed"] > row["num_pairs"]:
        return f"{seeds}; about {row['pairs_needed'] - row['num_pairs']:.0f} more would do"
    return seeds


def _table(
    study: Study,
    pairs: Collection[_Pair],
    measures: Sequence[str],
    margin: float | None,
    *,
    correct: Callable[[npt.ArrayLike], Floats] = holm,
) -> pd.DataFrame:
    if margin is not None and not margin > 0:
        raise ValueError(f"margin is {margin:g}; it must be above 0")
    values = {measure: _values(study, measure) for measure in measures}
    found = [_row(values[measure], left, right, measure, margin) for left, right in pairs for measure in measures]
    table = pd.DataFrame(found)
    table["p_corrected"] = correct(table["p_value"])
    if margin is not None:
        table["p_equivalent"] = holm(table["p_equivalent"])
        table["margin"] = margin
    is_clear = table["p_corrected"] < LEVEL
    table["better"] = [
        _better(measure, difference) if clear else None
        for measure, difference, clear in zip(table["metric"], table["difference"], is_clear, strict=True)
    ]
    table["verdict"] = [verdict(row) for _, row in table.iterrows()]
    if folders := study.folders_of_cells:
        for place, side in enumerate("ab"):
            table[f"folder_{side}"] = [folders[int(pair[place]["cell"])] for pair in pairs for _ in measures]
    return table


def _selected(study: Study, selection: Selection, side: str) -> pd.DataFrame:
    """Returns the cells that a selection names."""
    columns = [*dict.fromkeys(["stage", "kind", *LABELS, *study.varying])]
    cells = study.cells
    for key, value in selection.items():
        if key not in columns:
            raise ValueError(f"{side} names column {key!r}; it must be one of {', '.join(columns)}")
        found = cells[cells[key] == value]
        if found.empty:
            values = ", ".join(str(each) for each in dict.fromkeys(cells[key].dropna()))
            raise ValueError(f"{side} wants {key} {value!r}, which no setting has there; it must be one of {values}")
        cells = found
    return cells


def _compared_keys(study: Study, named: Collection[str]) -> list[str]:
    """Returns the columns in which two settings must agree if a selection names these columns."""
    free = {*named, "kind"} if "stage" in named else set(named)
    return [key for key in study.varying if key not in free]


def _rows(cells: pd.DataFrame) -> list[_Row]:
    return [dict(zip(cells.columns, values, strict=True)) for values in cells.itertuples(index=False, name=None)]


def _pairs(study: Study, left: pd.DataFrame, right: pd.DataFrame, keys: Sequence[str]) -> list[_Pair]:
    pairs = [(one, other) for one in _rows(left) for other in _rows(right) if one["cell"] != other["cell"]]
    return [pair for pair in pairs if _agree(study, *pair, keys)]


def _without_reference(pairs: Sequence[_Pair]) -> list[_Pair]:
    """Returns the pairs in which no dense network competes with a sparse one."""
    return [(one, other) for one, other in pairs if one["method"] != DENSE or other["method"] == DENSE]


def _agree(study: Study, one: _Row, other: _Row, keys: Sequence[str]) -> bool:
    if DENSE in (one["method"], other["method"]):
        keys = [key for key in keys if key != "density"]
    if one["kind"] != other["kind"]:
        # A soup and a training have methods of different families, which never agree.
        keys = [key for key in keys if key != "method"]
    if _stage(one) == _stage(other) and (tuned := study.tuned_columns(one["stage"])):
        # Each side has the rate, say, that was best for it: to ask for equal ones would leave the tuned settings without a rival.
        keys = [key for key in keys if key not in tuned]
    return all(one[key] == other[key] or _is_missing(one[key]) or _is_missing(other[key]) for key in keys)


def _is_missing(value: Any) -> bool:
    return bool(pd.isna(value))


def _stage(row: _Row) -> str | None:
    return row["stage"] if isinstance(row["stage"], str) else None


def _row(
    values_of: Mapping[int, pd.DataFrame], left: _Row, right: _Row, measure: str, margin: float | None
) -> dict[str, Any]:
    values = [values_of.get(int(row["cell"]), _NO_VALUES) for row in (left, right)]
    by = pairing(*values)
    means = [each.groupby(by)["value"].mean(skipna=False) for each in _with_equal_pooled(values, by)]
    both = means[0].index.intersection(means[1].index)
    differences = (means[0][both] - means[1][both]).replace([math.inf, -math.inf], math.nan).dropna()
    num_missing = len(both) - len(differences)
    found = estimate(differences) if len(differences) else None
    drawn = (math.nan, math.nan)
    if len(differences) > 1:
        drawn = stratified_bootstrap(differences.to_numpy()[:, None], _mean, generator=np.random.default_rng(0))
    low, high = (float(found.low), float(found.high)) if found is not None else (math.nan, math.nan)
    own = estimate(means[0][differences.index]) if len(differences) else None
    is_known = len(differences) > 0 and not num_missing
    equivalent = {}
    if margin is not None:
        equivalent["p_equivalent"] = equivalence_test(differences, margin=margin) if is_known else math.nan
    return {
        "a": left["label"],
        "b": right["label"],
        "metric": measure,
        "num_pairs": len(differences),
        "num_missing": num_missing,
        "mean_a": means[0][differences.index].mean(),
        "mean_a_low": math.nan if own is None else float(own.low),
        "mean_a_high": math.nan if own is None else float(own.high),
        "mean_b": means[1][differences.index].mean(),
        "difference": float(found.mean) if found is not None else math.nan,
        "difference_low": low,
        "difference_high": high,
        "bootstrap_low": drawn[0],
        "bootstrap_high": drawn[1],
        "flops_ratio": _ratio(left, right, "train_flops"),
        "time_ratio": _ratio(left, right, "train_s"),
        "num_won": _num_won(measure, differences),
        "p_value": t_test(differences) if is_known else math.nan,
        "p_sign_flip": sign_flip_test(differences, generator=np.random.default_rng(0)) if is_known else math.nan,
        "probability_better": _probability_better(measure, *values),
        **equivalent,
        "pairs_needed": math.nan if (needed := seeds_to_separate(differences)) is None else float(needed),
    }


def _mean(drawn_BST: Floats) -> Floats:
    means: Floats = drawn_BST.mean(axis=(-2, -1))
    return means


def _values(study: Study, measure: str) -> dict[int, pd.DataFrame]:
    """Returns the final values of the completed runs by cell: columns `outer`, `outer_seed`, `pooled`, `value`."""
    runs = study.labelled[study.labelled["status"] == Status.COMPLETED]
    values = study.by_run[measure].reindex(runs["run_key"]).to_numpy() if measure in study.by_run else math.nan
    table = runs[["cell", "outer", "outer_seed", "pooled"]].assign(value=values)
    return {int(own["cell"].iloc[0]): own for _, own in table.groupby("cell")}


def _with_equal_pooled(sides: Sequence[pd.DataFrame], by: str) -> list[pd.DataFrame]:
    """Returns the values of both sides for those pooled settings that both have for a repetition; all if they share none.

    Without it, a side that has a seed with one batch size would be compared with the mean over several of the other side.
    """
    pairs = [set(zip(each[by], each["pooled"], strict=True)) for each in sides]
    shared = pairs[0] & pairs[1]
    alike = {repetition for repetition, _ in shared}
    kept = []
    for each in sides:
        rows = [pair in shared or pair[0] not in alike for pair in zip(each[by], each["pooled"], strict=True)]
        kept.append(each[np.array(rows, dtype=bool)])
    return kept


def _ratio(left: _Row, right: _Row, cost: str) -> float:
    """Returns the mean cost of the left setting relative to the right one; NaN if one of them has none."""
    costs = [float(row[cost]) if cost in row and not pd.isna(row[cost]) else math.nan for row in (left, right)]
    return costs[0] / costs[1] if costs[1] else math.nan


def _better(measure: str, difference: float) -> str | None:
    """Returns the side that a difference a - b favours; None if the direction of the measure is not known."""
    larger = LARGER_IS_BETTER.get(measure.partition("/")[2])
    return None if larger is None else "a" if (difference > 0) == larger else "b"


def _num_won(measure: str, differences: pd.Series[float]) -> float:
    """Returns the number of pairs in which a is better; NaN if the direction of the measure is not known."""
    larger = LARGER_IS_BETTER.get(measure.partition("/")[2])
    return math.nan if larger is None else float(((differences > 0) if larger else (differences < 0)).sum())


def _probability_better(measure: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> float:
    """Returns the probability that a run of the left side is better than one of the right; NaN without a known direction."""
    larger = LARGER_IS_BETTER.get(measure.partition("/")[2])
    left, right = ours["value"].dropna(), theirs["value"].dropna()
    if larger is None or left.empty or right.empty:
        return math.nan
    return probability_of_improvement(left, right) if larger else probability_of_improvement(right, left)
