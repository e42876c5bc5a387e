"""Intervals over test rows for settings with a single seed, from the reliability bins that their run recorded."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import pandas as pd

from pruneyard.reports.statistics.bins import row_bootstrap

NOTE = (
    "Values of a single seed have no interval over seeds. 'over rows' is another kind of interval: a 95% bootstrap over the test "
    "samples of this one network, which says nothing about other seeds and separates no settings."
)
_ACCURACY, _ECE = "test/accuracy", "test/ece"
_NEARLY = 0.01
"""Largest difference of a recorded value from that of the bins: bins of other rows, or of other numbers, bound nothing."""

_NUM_DRAWS = 1_000

Interval = tuple[float, float]


def row_intervals(bins: pd.DataFrame, by_run: pd.DataFrame, cells: Collection[int]) -> dict[tuple[int, str], Interval]:
    """Returns the bootstrap intervals over rows of test accuracy and ECE, by cell and measure.

    bins: of the test split, as `series.bins_of_runs` returns them. by_run: final values by run key and measure. cells: those with
    one completed run.
    """
    found: dict[tuple[int, str], Interval] = {}
    for key, own in bins[bins["cell"].isin(cells)].groupby("run_key", sort=False):
        generator = np.random.default_rng(0)  # every cell draws alike, so that a page does not change when it is rendered again
        x, y, count = own["x"].clip(0, 1), own["y"].clip(0, 1), own["count"]
        intervals = row_bootstrap(x, y, count, generator=generator, num_draws=_NUM_DRAWS)
        of_bins = ((y * count).sum() / count.sum(), (count * (y - x).abs()).sum() / count.sum())
        for measure, value, interval in zip((_ACCURACY, _ECE), of_bins, intervals, strict=True):
            recorded = float(by_run[measure].get(key, math.nan)) if measure in by_run else math.nan
            if abs(recorded - value) <= _NEARLY:
                found[int(own["cell"].iloc[0]), measure] = interval
    return found


def in_words(interval: Interval | None) -> str:
    """Returns an interval as the remark below a value, with digits for its width; an empty text for None."""
    if interval is None:
        return ""
    low, high = interval
    decimals = min(max(1 - math.floor(math.log10((high - low) / 2)), 0), 4) if high > low else 4
    return f"over rows {low:.{decimals}f} to {high:.{decimals}f}"
