"""The section of the page on merges: each merged network against its members, the best of them, and their ensemble."""

from __future__ import annotations

from collections.abc import Iterator

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


def merge_table(study: Study) -> Table | None:
    """Returns one row per measure of `MEASURES` and merge; None where no completed merge recorded its ensemble."""
    runs = study.labelled[(study.labelled["kind"] == MERGE) & (study.labelled["status"] == Status.COMPLETED)]
    measures = [name for name in MEASURES if f"test@ensemble/{name}" in study.by_run]
    if runs.empty or not measures:
        return None
    cells = study.cells[study.cells["cell"].isin(runs["cell"])]
    cells = cells.head(MAX_ROWS // len(measures))
    labels = list(zip(*label_values(study, cells), strict=True))
    rows, of_rows = [], []
    for name in measures:
        for cell, own in zip(cells["cell"], labels, strict=True):
            rows.append([*own, Value(text=title(name)), *_values(study, runs[runs["cell"] == cell], name)])
            of_rows.append([int(cell)])
    headers = [*label_headers(study), "measure", "seeds", "merge", *(f"minus {words}" for words in OTHERS.values())]
    table = Table(headers=headers, num_labels=len(label_headers(study)) + 1, rows=rows, cells=of_rows, name="merges")
    return table.without_empty_columns()


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
