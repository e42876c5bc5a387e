"""Chooses the settings that charts draw, and that long tables keep, where a study has too many for all of them.

The choice never reads the test split: a reader would take what is drawn for what is good.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from pruneyard.reports.glossary import LARGER_IS_BETTER, measure_title
from pruneyard.reports.records import Status

MAX_SERIES = 24
"""Series (methods with their settings) that charts draw; 24 still have distinct pairs of colour and symbol."""
MAX_SIZES = 12
"""Densities or numbers of images per class that charts draw of one series on one data set and model."""
CHOSEN_BY = ("val/accuracy", "val/nll")  # each settles the ties of the one before


def selection_measure(finals: pd.DataFrame) -> str | None:
    """Returns the measure that settings are ranked by first: the first of `CHOSEN_BY` that any run has; None without one."""
    return next((measure for measure in CHOSEN_BY if measure in set(finals["measure"])), None)


def ranks(cells: pd.DataFrame, labelled: pd.DataFrame, finals: pd.DataFrame) -> pd.Series[float]:
    """Returns the place of every cell among those of its `field`, 1 for the best, by means of `CHOSEN_BY` over completed runs.

    A measure settles ties of the one before it, as NLL those of calibrators, which keep the accuracy of their network.

    cells: columns `cell, field`, in the order of the summary, which settles the ties that are left and ranks everything without a
    measure. Cells that lack a measure come last. The result has the index of `cells`.
    """
    means, ascending = pd.DataFrame({"field": cells["field"]}), []
    completed = labelled.loc[labelled["status"] == Status.COMPLETED, ["run_key", "cell"]]
    for measure in CHOSEN_BY:
        values = finals.loc[finals["measure"] == measure, ["run_key", "value"]].merge(completed, on="run_key")
        means[measure] = cells["cell"].map(values.groupby("cell")["value"].mean())
        ascending.append(not LARGER_IS_BETTER[measure.partition("/")[2]])
    best_first = means.sort_values(list(CHOSEN_BY), ascending=ascending, kind="stable", na_position="last")
    places: pd.Series[float] = best_first.groupby("field", sort=False).cumcount() + 1.0
    return places.reindex(cells.index)


def drawn(cells: pd.DataFrame, ranks: pd.Series[float]) -> pd.DataFrame:
    """Returns the cells that charts draw, in their order: those of at most `MAX_SERIES` series, `MAX_SIZES` of each and field.

    A series has the rank of its best cell. Within a series, which is ordered by size, the kept cells are evenly spaced.
    """
    best = ranks.groupby(cells["series"], sort=False).min().sort_values(kind="stable")
    kept = cells[cells["series"].isin(best.index[:MAX_SERIES])]
    place = kept.groupby(["field", "series"], sort=False).cumcount()
    sizes = kept.groupby(["field", "series"], sort=False)["cell"].transform("size")
    rows: pd.DataFrame = kept[[_is_kept(int(at), int(size)) for at, size in zip(place, sizes, strict=True)]]
    return rows


def _is_kept(place: int, size: int) -> bool:
    return size <= MAX_SIZES or place in set(np.linspace(0, size - 1, MAX_SIZES).round().astype(int).tolist())


def note(cells: pd.DataFrame, drawn: pd.DataFrame, *, measure: str | None) -> str:
    """Returns which settings are drawn, as a sentence that follows a caption; an empty text if all are."""
    if len(drawn) == len(cells):
        return ""
    num_series = cells["series"].nunique()
    which = "all" if num_series <= MAX_SERIES else f"the best {MAX_SERIES}" if measure else f"the first {MAX_SERIES}"
    of = f" of {num_series:,}" if num_series > MAX_SERIES else ""
    by = f" by {measure_title(measure)}" if measure and num_series > MAX_SERIES else ""
    return (
        f" Drawn are {len(drawn):,} of {len(cells):,} settings: at most {MAX_SIZES} sizes each of {which}{of} series{by}. "
        "`pruneyard export` writes all settings."
    )
