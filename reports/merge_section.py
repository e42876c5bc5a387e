"""The section of the page on merges: each merged network against its members, the best of them, and their ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.glossary import LARGER_IS_BETTER, title
from pruneyard.reports.records import Status
from pruneyard.reports.statistics.differences import holm, t_test
from pruneyard.reports.statistics.intervals import half_width
from pruneyard.reports.study import Study
from pruneyard.reports.tables import MAX_ROWS, Table, Value, label_headers, label_values

MERGE = "merge"
"""The kind of runs that merge earlier runs."""
LEVEL = 0.05
"""Of the tests of a verdict."""
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


def merge_verdict(study: Study) -> str:
    """Returns in which measures merges are better or worse than each of `OTHERS`; an empty text without two repetitions.

    Each merge is compared in each measure by a paired t test, corrected by Holm over all of them.
    """
    runs = study.labelled[(study.labelled["kind"] == MERGE) & (study.labelled["status"] == Status.COMPLETED)]
    found = []
    for _, own in runs.groupby("cell", sort=False):
        values = study.by_run.reindex(own["run_key"])
        for split in OTHERS:
            for name in (name for name in MEASURES if f"test@{split}/{name}" in values):
                gaps = _differences(values, own, split, name).dropna()
                if len(gaps) > 1:
                    found.append((split, name, float(gaps.mean()), t_test(gaps)))
    corrected = holm([p_value for *_, p_value in found]).tolist()
    counts: dict[str, dict[tuple[str, str], int]] = {split: {} for split, *_ in found}
    for (split, name, mean, _), p_value in zip(found, corrected, strict=True):
        if p_value < LEVEL:
            side = (name, "better" if (mean > 0) == LARGER_IS_BETTER[name] else "worse")
            counts[split][side] = counts[split].get(side, 0) + 1
    num = runs["cell"].nunique()
    against: dict[str, list[str]] = {}
    for split, sides in counts.items():
        against.setdefault(_sides(sides, num) or "no evidence", []).append(f"the {OTHERS[split]}")
    if not against:
        return ""
    told = "; ".join(f"against {' and '.join(names)}, {words}" for words, names in against.items())
    return f"Merges (paired by run, Holm over {formats.plural(len(found), 'comparison')}): {told}."


def _sides(counts: Mapping[tuple[str, str], int], num: int) -> str:
    """Returns measures that are better or worse, with the number of settings where there are several."""
    return ", ".join(
        f"{title(name)} is {side}{f' in {count} of {num} settings' if num > 1 else ''}" for (name, side), count in counts.items()
    )


def _differences(values: pd.DataFrame, runs: pd.DataFrame, split: str, name: str) -> pd.Series[float]:
    """Returns merge minus its counterpart, one value for each independent repetition."""
    gaps = values[f"test/{name}"].to_numpy() - values[f"test@{split}/{name}"].to_numpy()
    # Merges that rest on the same first runs count as one repetition.
    means: pd.Series[float] = pd.Series(gaps).groupby(runs["outer"].to_numpy()).mean()
    return means


def _values(study: Study, runs: pd.DataFrame, name: str) -> Iterator[Value]:
    """Yields the number of repetitions, the mean of the merges, and the paired differences."""
    values = study.by_run.reindex(runs["run_key"])
    own = values[f"test/{name}"].to_numpy()
    means = pd.Series(own).groupby(runs["outer"].to_numpy()).mean()
    yield Value(text=str(len(means)))
    yield _estimate(means)
    for split in OTHERS:
        measure = f"test@{split}/{name}"
        if measure not in values:
            yield Value(text=formats.number(None))
            continue
        yield _estimate(_differences(values, runs, split, name), larger=LARGER_IS_BETTER[name])


def _estimate(values: pd.Series[float], *, larger: bool | None = None) -> Value:
    """Returns mean and half width. larger: whether a larger difference is better, to colour those whose interval excludes 0."""
    known = values.dropna()
    mean = float(known.mean()) if len(known) else float("nan")
    half = float(half_width(known.std(), len(known))) if len(known) > 1 else float("nan")
    text, width = formats.estimate(mean, mean - half, mean + half)
    is_clear = larger is not None and abs(mean) > half
    tone = ("good" if (mean > 0) == larger else "bad") if is_clear else ""
    return Value(text=text, half=width, tone=tone)
