"""The section of the page that answers which settings are better than the baseline, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.glossary import measure_title
from pruneyard.reports.paired import against_baseline
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table, Value

BASELINES = {"sparse": "static", "distill": "random"}
"""The natural baseline of each kind of jobs. Calibrators are compared with `none` in a section of their own."""
MAX_NAMED = 6
MAX_COMPARED = 100
"""Settings of one kind that are all compared; of more, those that charts draw."""
MAX_SHORT = 3
"""Series that the headline names."""
_TONES = {"better": "good", "worse": "bad"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of one kind of jobs with its baseline: a sentence, its first words for the headline, the table, its note."""

    baseline: str
    sentence: str
    short: str
    table: Table
    note: str


def comparisons(study: Study) -> list[Comparison]:
    """Returns one comparison for each kind of jobs that has its natural baseline, another method, and two common seeds."""
    found = []
    for kind, baseline in BASELINES.items():
        methods = set(study.cells.loc[study.cells["kind"] == kind, "method"])
        if study.measures and baseline in methods and len(methods) > 1:
            found += _compared(study, kind, baseline, measure=study.measures[0])
    return found


def _compared(study: Study, kind: str, baseline: str, *, measure: str) -> list[Comparison]:
    cells = set(study.cells.loc[study.cells["kind"] == kind, "cell"])
    compared = cells if len(cells) <= MAX_COMPARED else cells & set(study.drawn["cell"])
    try:
        rows = against_baseline(
            study,
            {"kind": kind, "method": baseline},
            [measure],
            only={"kind": kind},
            cells=compared,
        )
    except ValueError:  # no setting agrees with the baseline, as where it has a density of its own
        return []
    if (rows["num_pairs"] < 2).all():
        return []
    series = dict(zip(study.cells["label"], study.cells["series"], strict=True))
    name = measure_title(measure)
    of_rows = [series[label] for label in rows["a"]]
    note = (
        f"Difference in {name} to the setting of {baseline} that agrees in all other columns: mean over common seeds ± half "
        "width of its 95% t interval. p: paired t test, corrected for all rows of this table (Holm). Better and worse: p below "
        "0.05. The number of further seeds assumes that mean and deviation stay as they are. FLOPs and time: of training, "
        f"relative to {baseline}."
    )
    if len(compared) < len(cells):
        note += " Only the settings that charts draw are compared here; `pruneyard compare` has all."
    return [
        Comparison(
            baseline=baseline,
            sentence=_sentence(rows, of_rows, baseline=baseline, name=name, limit=MAX_NAMED),
            short=_sentence(rows, of_rows, baseline=baseline, name=name, limit=MAX_SHORT),
            table=_table(rows, dict(zip(study.cells["label"], study.cells["cell"], strict=True))),
            note=note,
        )
    ]


def _sentence(rows: pd.DataFrame, series: Sequence[str], *, baseline: str, name: str, limit: int) -> str:
    """Returns in how many of its comparisons each series is better or worse, the best first; names `limit` of each sort."""
    counted = [(name, list(rows.loc[[each == name for each in series], "verdict"])) for name in dict.fromkeys(series)]
    counted.sort(key=lambda entry: entry[1].count("worse") - entry[1].count("better"))
    counts = [f"{name} is {words}" for name, verdicts in counted if (words := _counts(verdicts))]
    more = [f"and {len(counts) - limit} more in the table"] if len(counts) > limit else []
    alike = [name for name, verdicts in counted if not _counts(verdicts)]
    are = "is" if len(alike) == 1 else "are"
    rest = [f"{formats.listed(alike, limit=limit)} {are} not separable from it"] if alike else []
    return f"Against {baseline}, paired by seed, in {name}: {'; '.join([*counts[:limit], *more, *rest])}."


def _counts(verdicts: Sequence[str]) -> str:
    """Returns in how many settings a series is better and worse; empty if in none."""
    num = len(verdicts)
    found = {word: verdicts.count(word) for word in ("better", "worse")}
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
