"""The section of the page on merges: each merged network against its members, the best of them, and their ensemble."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.glossary import LARGER_IS_BETTER, title
from pruneyard.reports.records import Status
from pruneyard.reports.statistics.intervals import half_width
from pruneyard.reports.study import Study
from pruneyard.reports.tables import MAX_ROWS, Table, Value, label_headers, label_values

MERGE = "merge"
"""The kind of runs that merge earlier runs."""
MEASURES = ("accuracy", "nll", "ece")
OTHERS = {"mean_member": "mean member", "best_member": "best member on val", "ensemble": "ensemble"}
"""What a merge is compared with: the split of its metrics is `test@NAME`."""
NOTE = (
    "Test split, mean over seeds ± half width of the 95% t interval. Differences are the merge minus its mean member, the "
    "member that is best on val, and the ensemble of the members (mean of their probabilities), which costs a forward pass of "
    "each. They are paired: the same members of the same run. Green and red: the interval excludes 0; intervals are not "
    "corrected for the number of comparisons."
)


@dataclass(frozen=True, kw_only=True)
class MergeTable:
    """The comparison of all merges in one measure."""

    name: str
    table: Table


def merge_tables(study: Study) -> list[MergeTable]:
    """Returns a table for each of `MEASURES` that merges recorded; an empty list without completed merges."""
    runs = study.labelled[(study.labelled["kind"] == MERGE) & (study.labelled["status"] == Status.COMPLETED)]
    return [
        MergeTable(name=title(name), table=_table(study, runs, name)) for name in MEASURES if _has(study, f"test@ensemble/{name}")
    ]


def _has(study: Study, measure: str) -> bool:
    return measure in study.by_run


def _table(study: Study, runs: pd.DataFrame, name: str) -> Table:
    cells = study.cells[study.cells["cell"].isin(runs["cell"])].head(MAX_ROWS)
    found = [list(_values(study, runs[runs["cell"] == cell], name)) for cell in cells["cell"]]
    headers = [*label_headers(study), "seeds", title(name), *(f"minus {words}" for words in OTHERS.values())]
    columns = [*label_values(study, cells), *zip(*found, strict=True)]
    return Table(
        headers=headers,
        num_labels=len(label_headers(study)),
        rows=list(zip(*columns, strict=True)),
        cells=[[int(cell)] for cell in cells["cell"]],
        name=f"merges-{name}",
    ).without_empty_columns()


def _values(study: Study, runs: pd.DataFrame, name: str) -> Iterator[Value]:
    """Yields the number of repetitions, the mean of the merges, and the paired differences."""
    values = study.by_run.reindex(runs["run_key"])
    own = values[f"test/{name}"].to_numpy()
    # Merges that rest on the same first runs count as one repetition.
    means = pd.Series(own).groupby(runs["outer"].to_numpy()).mean()
    yield Value(text=str(len(means)))
    yield _estimate(means)
    for split in OTHERS:
        measure = f"test@{split}/{name}"
        if measure not in values:
            yield Value(text=formats.number(None))
            continue
        differences = pd.Series(own - values[measure].to_numpy()).groupby(runs["outer"].to_numpy()).mean()
        yield _estimate(differences, larger=LARGER_IS_BETTER[name])


def _estimate(values: pd.Series[float], *, larger: bool | None = None) -> Value:
    """Returns mean and half width. larger: whether a larger difference is better, to colour those whose interval excludes 0."""
    known = values.dropna()
    mean = float(known.mean()) if len(known) else float("nan")
    half = float(half_width(known.std(), len(known))) if len(known) > 1 else float("nan")
    text, width = formats.estimate(mean, mean - half, mean + half)
    is_clear = larger is not None and abs(mean) > half
    tone = ("good" if (mean > 0) == larger else "bad") if is_clear else ""
    return Value(text=text, half=width, tone=tone)
