"""The section of the page that answers which settings are better than the baseline, paired by seed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.baselines import Baseline, leaders, natural_baselines, results_of
from pruneyard.reports.glossary import LARGER_IS_BETTER, measure_title
from pruneyard.reports.leading import selection_measure
from pruneyard.reports.merge_section import MERGE
from pruneyard.reports.paired import UNKNOWN_DIRECTION, against_baseline, against_leaders
from pruneyard.reports.study import CALIBRATE, PLACE, PROBE, Study
from pruneyard.reports.tables import Table, Value

_ELSEWHERE = (CALIBRATE, PROBE, MERGE)
"""Kinds of jobs that sections of their own compare."""
MAX_NAMED = 6
MAX_COMPARED = 100
"""Settings of one kind that are all compared; of more, those that charts draw."""
MAX_SHORT = 3
"""Series that the headline names."""
_TONES = {"better": "good", "worse": "bad"}
_COUNTED = {"better": "better", "worse": "worse", "different": UNKNOWN_DIRECTION}
"""The verdicts that sentences count, by the word for each."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of one kind of jobs with its baseline: a sentence, its first words for the headline, the table, its note.

    baseline: in words, for the title. name: of the section.
    """

    baseline: str
    name: str
    sentence: str
    short: str
    table: Table
    note: str


def comparisons(study: Study) -> list[Comparison]:
    """Returns the comparisons of each kind of jobs with its natural baselines, or, without any, with its leading settings.

    Settings that have no two seeds in common with their baseline are not compared; nor are runs that settings were chosen by.
    """
    if not study.measures:
        return []
    found: list[Comparison] = []
    for kind in dict.fromkeys(study.cells["kind"]):
        if kind in _ELSEWHERE:
            continue
        own = [_with_baseline(study, kind, baseline) for baseline in natural_baselines(study, kind)]
        compared = [each for each in own if each is not None]
        for each in compared or filter(None, [_with_leaders(study, kind)]):
            taken = each.name in {other.name for other in found}
            found.append(replace(each, name=f"{each.name}-{kind}", baseline=f"{each.baseline} ({kind})") if taken else each)
    return found


def _with_baseline(study: Study, kind: str, baseline: Baseline) -> Comparison | None:
    cells, is_all = _compared_cells(study, kind)
    selection = {"kind": kind, **baseline.selection}
    try:
        rows = against_baseline(study, selection, study.measures[:1], only={"kind": kind}, cells=cells)
    except ValueError:  # no setting agrees with the baseline, as where it has a density of its own
        return None
    words = baseline.words(study)
    to = f"the setting of {words} that agrees in all other columns"
    if any(study.tuned_columns(stage) for stage in results_of(study, kind)["stage"].unique()):
        to += " but those that were chosen for each side on its own"
    return _comparison(study, rows, words, to=to, is_all=is_all)


def _with_leaders(study: Study, kind: str) -> Comparison | None:
    cells, is_all = _compared_cells(study, kind)
    if study.measures[0].startswith("val/"):
        return None  # what chose the leader cannot judge it
    leader_of = leaders(study, study.cells[study.cells["cell"].isin(cells)])
    if not leader_of:
        return None
    rows = against_leaders(study, leader_of, study.measures[:1])
    chosen_by = measure_title(str(selection_measure(study.finals)))
    series = dict(zip(study.cells["label"], study.cells["series"], strict=True))
    names = list(dict.fromkeys(series[label] for label in rows["b"]))
    to = f"the setting with the best {chosen_by} on the same data, model, stage and size"
    against = f"the leader in {chosen_by}, {formats.listed(names, limit=MAX_SHORT)}"
    return _comparison(study, rows, "the leader", against=against, to=to, is_all=is_all, family="pairs of settings (Bonferroni)")


def _compared_cells(study: Study, kind: str) -> tuple[set[int], bool]:
    """Returns the cells of one kind that are compared, and whether these are all of it."""
    cells = set(results_of(study, kind)["cell"])
    return (cells, True) if len(cells) <= MAX_COMPARED else (cells & set(study.drawn["cell"]), False)


def _comparison(
    study: Study,
    rows: pd.DataFrame,
    baseline: str,
    *,
    to: str,
    is_all: bool,
    against: str | None = None,
    family: str = "rows of this table (Holm)",
) -> Comparison | None:
    """Returns the section on these rows, if any of them has two seeds.

    against: the baseline as the sentence names it. family: what p-values are corrected for.
    """
    if (rows["num_pairs"] < 2).all():
        return None
    rows = _ranked(study, rows)
    series = dict(zip(study.cells["label"], study.cells["series"], strict=True))
    name = measure_title(study.measures[0])
    of_rows = [series[label] for label in rows["a"]]
    note = (
        f"Difference in {name} to {to}: mean over common seeds ± half "
        f"width of its 95% t interval. p: paired t test, corrected for all {family}. Better and worse: p below "
        "0.05. Best first, at each size. The number of further seeds assumes that mean and deviation stay as they are. "
        f"FLOPs and time: of training, relative to {baseline}."
    )
    if not is_all:
        note += " Only the settings that charts draw are compared here; `pruneyard compare` has all."
    return Comparison(
        baseline=baseline,
        name="against-" + re.sub(r"[^a-z0-9]+", "-", baseline.lower()).strip("-"),
        sentence=_sentence(rows, of_rows, against=against or baseline, name=name, limit=MAX_NAMED),
        short=_sentence(rows, of_rows, against=against or baseline, name=name, limit=MAX_SHORT),
        table=_table(rows, dict(zip(study.cells["label"], study.cells["cell"], strict=True))),
        note=note,
    )


def _ranked(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows by data, model, stage and size, in the order of the summary, and the best difference first in each."""
    groups = study.cells.groupby(PLACE, sort=False, dropna=False).ngroup()
    group_of = dict(zip(study.cells["label"], groups, strict=True))
    larger = LARGER_IS_BETTER.get(study.measures[0].partition("/")[2])
    sign = 0 if larger is None else 1 if larger else -1  # 0 keeps the order of the summary
    order = pd.DataFrame({"group": rows["a"].map(group_of), "gain": rows["difference"] * sign})
    return rows.loc[order.sort_values(["group", "gain"], ascending=[True, False], kind="stable").index]


def _sentence(rows: pd.DataFrame, series: Sequence[str], *, against: str, name: str, limit: int) -> str:
    """Returns in how many of its comparisons each series is better or worse, the best first; names `limit` of each sort."""
    counted = [(name, list(rows.loc[[each == name for each in series], "verdict"])) for name in dict.fromkeys(series)]
    counted.sort(key=lambda entry: entry[1].count("worse") - entry[1].count("better"))
    counts = [f"{name} is {words}" for name, verdicts in counted if (words := _counts(verdicts))]
    more = [f"and {len(counts) - limit} more in the table"] if len(counts) > limit else []
    alike = [name for name, verdicts in counted if not _counts(verdicts)]
    are = "is" if len(alike) == 1 else "are"
    rest = [f"{formats.listed(alike, limit=limit)} {are} not separable from it"] if alike else []
    return f"Against {against}, paired by seed, in {name}: {'; '.join([*counts[:limit], *more, *rest])}."


def _counts(verdicts: Sequence[str]) -> str:
    """Returns in how many settings a series is better and worse, or differs; empty if in none."""
    num = len(verdicts)
    found = {word: verdicts.count(verdict) for word, verdict in _COUNTED.items()}
    where = {count: f" in {count} of {num} settings" for count in range(num)}
    where[num] = "" if num < 2 else " in both settings" if num == 2 else f" in all {num} settings"
    parts = [f"{word}{where[count]}" for word, count in found.items() if count]
    return " and ".join(parts)


def _table(rows: pd.DataFrame, cell_of: Mapping[str, int]) -> Table:
    headers = ["setting", "baseline", "difference", "p", "seeds won", "FLOPs", "time", "verdict"]
    cells = [[int(cell_of[row["a"]]), int(cell_of[row["b"]])] for _, row in rows.iterrows()]
    return Table(headers=headers, num_labels=2, rows=[_row(row) for _, row in rows.iterrows()], texts={7}, cells=cells)


def _row(row: pd.Series[Any]) -> list[Value]:
    mean, half = formats.estimate(row["difference"], row["difference_low"], row["difference_high"])
    won = "" if math.isnan(row["num_won"]) or not row["num_pairs"] else f"{row['num_won']:.0f} of {row['num_pairs']}"
    return [
        Value(text=row["a"]),
        Value(text=row["b"]),
        Value(text=mean, half=half),
        Value(text=_digits(row["p_corrected"], ".2g")),
        Value(text=won),
        *(Value(text=_digits(row[name], ".3g", unit="x")) for name in ("flops_ratio", "time_ratio")),
        Value(text=row["verdict"], tone=_TONES.get(row["verdict"], "quiet")),
    ]


def _digits(value: float, form: str, *, unit: str = "") -> str:
    return formats.number(value) if math.isnan(value) else f"{value:{form}}{unit}"
