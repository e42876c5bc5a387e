"""Plots reliability diagrams: accuracy against confidence per bin, one panel per cell."""

from __future__ import annotations

from functools import partial

import altair as alt
import pandas as pd

from pruneyard.reports import formats, palette, series
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import MAX_PANELS, Chart, Figure, Plot, draw
from pruneyard.reports.statistics.bins import bootstrap_band
from pruneyard.reports.study import CALIBRATE, Study

NUM_OPEN = 3
"""Diagrams that are not folded: those whose ECE exceeds its noise floor most."""
FEWEST = 10
"""Samples of a bin, all seeds together, below which its accuracy is not drawn: its band would fill the diagram."""
SMALL_BINS = f"Bins with fewer than {FEWEST} samples, all seeds together, are in the bars but not in the line."
_COLUMNS = ["x", "y", "low", "high", "count", "left", "right", "share"]
_SPLITS = ("test", "val", "calib")
BANDS = "Bands: 95% bootstrap intervals for the sample size of one run (see 'confidence band' under Definitions)."


def reliability(study: Study) -> list[Figure]:
    """Returns the figure for the test split, or for the first other split with bins; an empty list if there are none."""
    runs = study.drawn_runs[study.drawn_runs["kind"] != CALIBRATE]
    bins = series.reliability(study.curves, runs)
    present = set(bins["split"])
    split = next((name for name in (*_SPLITS, *sorted(present)) if name in present), None)
    bins = bins[bins["split"] == split].assign(
        left=lambda frame: frame["bin"] / series.NUM_BINS,
        right=lambda frame: (frame["bin"] + 1) / series.NUM_BINS,
        share=lambda frame: frame["count"] / frame.groupby("cell")["count"].transform("sum"),
    )
    table = study.drawn[study.drawn["cell"].isin(bins["cell"])]
    of_runs = series.bins_of_runs(study.curves, runs)
    errors = series.calibration_errors(of_runs[of_runs["key"] == split])
    table = table.loc[excess(errors).reindex(table["cell"]).set_axis(table.index).sort_values(ascending=False).index]

    def plot(cell: int, label: str, name: str) -> Plot:
        own = with_band(bins[bins["cell"] == cell], num_runs=len(errors[errors["cell"] == cell]))
        points = [f"{x:.2f} to {y:.2f}" for x, y in zip(own["x"], own["y"], strict=True)]
        text = (
            f"Accuracy by mean confidence for {label}: {', '.join(points)}; {own['count'].sum():.0f} samples"
        )
        note = error_note(errors[errors["cell"] == cell], num_bins=series.NUM_BINS)
        return Plot(title=label, words=text, chart=_chart(own, color=study.styles[name][0]), note=note)

    return draw(
        [partial(plot, *row) for row in table[["cell", "label", "series"]].itertuples(index=False)],
        name="reliability",
        title=f"Reliability diagrams ({split} split)",
        caption="Points on the dashed diagonal are perfectly calibrated; points below it are over-confident. Seeds are pooled, "
        f"weighted by samples, in {series.NUM_BINS} equal-width bins of confidence; grey bars show the fraction of samples "
        f"in each bin. {BANDS} The noise floor is the ECE that a perfectly calibrated network with these confidences would show "
        f"on the same number of samples; an ECE close to it is no evidence of miscalibration. {SMALL_BINS} The diagrams are in "
        f"the order of ECE minus noise floor, the largest first.{study.drawn_note}",
        width="third",
        num_open=NUM_OPEN,
        folded_title=f"Diagrams of {formats.plural(min(len(table), MAX_PANELS) - NUM_OPEN, 'more setting')}",
    )


def excess(errors: pd.DataFrame) -> pd.Series[float]:
    """Returns ECE minus noise floor by cell, mean over runs. `errors` are rows of `series.calibration_errors`."""
    found: pd.Series[float] = (errors["ece"] - errors["floor"]).groupby(errors["cell"]).mean()
    return found


def without_small_bins(base: alt.Chart) -> alt.Chart:
    """Returns the chart of those bins that have at least `FEWEST` samples in column `count`."""
    filled: alt.Chart = base.transform_filter(f"datum.count >= {FEWEST}")
    return filled


def with_band(bins: pd.DataFrame, *, num_runs: int) -> pd.DataFrame:
    """Returns the bins of one cell with the columns `low, high` of their bootstrap band.

    The band is that of one run's sample size: runs may share their samples, so more runs must not narrow it.
    """
    low, high = bootstrap_band(bins["y"].clip(0, 1), bins["count"] / num_runs)
    return bins.assign(low=low, high=high)


def band(base: alt.Chart, *, x: alt.X, low: alt.Y, color: str) -> Chart:
    """Returns the band from the columns of `with_band`, with a bar at every point because a single bin has no area."""
    area = base.mark_area(color=color, opacity=0.18).encode(x=x, y=low, y2="high:Q")
    bars = base.mark_rule(color=color, strokeWidth=1.2, opacity=0.5).encode(x=x, y=low, y2="high:Q")
    return alt.layer(area, bars)


def error_note(errors: pd.DataFrame, *, num_bins: int) -> str:
    """Returns the ECE with its bins, samples and noise floor in words, means over runs.

    `errors` are rows of `series.calibration_errors`.
    """
    least, most = errors["num"].min(), errors["num"].max()
    rows = f"{least:,.0f}" if least == most else f"{least:,.0f} to {most:,.0f}"
    each = " each" if len(errors) > 1 else ""
    runs = formats.plural(len(errors), "run")
    return (
        f"ECE {errors['ece'].mean():.4f}, noise floor {errors['floor'].mean():.4f}; {num_bins} bins, {runs} with n = {rows}{each}"
    )


def _chart(bins: pd.DataFrame, *, color: str) -> Chart:
    base = alt.Chart(marks.rows(bins, _COLUMNS))
    unit = alt.Scale(domain=[0, 1])
    axis = alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format="~g")
    across = alt.X("x:Q", title="mean confidence", scale=unit, axis=axis)
    up = alt.Y("y:Q", title="accuracy", scale=unit, axis=axis)
    shares = base.mark_rect(color=palette.REFERENCE, opacity=0.35).encode(
        x=alt.X("left:Q", title="mean confidence", scale=unit, axis=axis),
        x2="right:Q",
        y=alt.Y("share:Q", title="accuracy", scale=unit, axis=axis),
        y2=alt.Y2Datum(0),
    )
    ends = alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    diagonal = alt.Chart(ends).mark_line(color=palette.REFERENCE, strokeDash=marks.DASHES, strokeWidth=1.2)
    filled = without_small_bins(base)
    lines = filled.mark_line(color=color, strokeWidth=1.8).encode(x=across, y=up)
    symbols = filled.mark_point(color=color, filled=True, size=36, opacity=1).encode(
        x=across,
        y=up,
        tooltip=[
            alt.Tooltip("x:Q", title="mean confidence", format=".3f"),
            alt.Tooltip("y:Q", title="accuracy", format=".3f"),
            alt.Tooltip("low:Q", title="95% lower", format=".3f"),
            alt.Tooltip("high:Q", title="95% upper", format=".3f"),
            alt.Tooltip("count:Q", title="samples", format=","),
        ],
    )
    low = alt.Y("low:Q", title="accuracy", scale=unit, axis=axis)
    drawn = band(filled, x=across, low=low, color=color)
    # Later layers are drawn on top, so the bars of shares come first.
    return alt.layer(shares, diagonal.encode(x=across, y=up), drawn, lines, symbols).properties(height=240)
