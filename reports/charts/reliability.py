"""Reliability diagrams: accuracy against confidence, bin by bin, one panel per cell."""

from __future__ import annotations

import altair as alt
import pandas as pd

from reports import series
from reports.charts import marks, palette
from reports.charts.figure import Chart, Figure, Plot, draw
from reports.study import Study

_COLUMNS = ["x", "y", "count", "left", "right", "share"]
_SPLITS = ("test", "val", "calib")


def reliability(study: Study) -> list[Figure]:
    """The figure for the test split, or for the first other split that has bins."""
    bins = series.reliability(study.curves, study.labelled)
    present = set(bins["split"])
    split = next((name for name in (*_SPLITS, *sorted(present)) if name in present), None)
    bins = bins[bins["split"] == split].assign(
        left=lambda frame: frame["bin"] / series.NUM_BINS,
        right=lambda frame: (frame["bin"] + 1) / series.NUM_BINS,
        share=lambda frame: frame["count"] / frame.groupby("cell")["count"].transform("sum"),
    )
    table = study.cells[study.cells["cell"].isin(bins["cell"])]
    plots = []
    for cell, label, name in zip(table["cell"], table["label"], table["series"], strict=True):
        own = bins[bins["cell"] == cell]
        points = [f"{x:.2f} to {y:.2f}" for x, y in zip(own["x"], own["y"], strict=True)]
        text = (
            f"Accuracy by mean confidence for {label}: {', '.join(points)}; {own['count'].sum():.0f} samples"
        )
        plots.append(Plot(title=label, words=text, chart=_chart(own, color=study.styles[name][0])))
    return draw(
        plots,
        name="reliability",
        title=f"Reliability on {split}",
        caption="Points on the dashed diagonal are calibrated, points below it over-confident. Seeds are put "
        f"together, weighted by samples, in {series.NUM_BINS} equal right-closed bins of confidence; grey "
        "bars show the share of samples in each bin.",
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
    lines = base.mark_line(color=color, strokeWidth=1.8).encode(x=across, y=up)
    symbols = base.mark_point(color=color, filled=True, size=36, opacity=1).encode(
        x=across,
        y=up,
        tooltip=[
            alt.Tooltip("x:Q", title="mean confidence", format=".3f"),
            alt.Tooltip("y:Q", title="accuracy", format=".3f"),
            alt.Tooltip("count:Q", title="samples", format=","),
        ],
    )
    return alt.layer(shares, diagonal.encode(x=across, y=up), lines, symbols).properties(height=240)
