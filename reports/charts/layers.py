"""Plots the density of each layer of a network, one panel per method."""

from __future__ import annotations

from functools import partial

import altair as alt
import pandas as pd

from pruneyard.reports import series
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Figure, Plot, draw
from pruneyard.reports.study import DENSE, Study


def layers(study: Study) -> list[Figure]:
    """Returns the figure of final densities; an empty list if no run recorded any."""
    points = series.layer_densities(study.curves, study.drawn_runs)
    # A logarithmic axis has no 0.
    points = points[points["density"] > 0].merge(study.drawn[["cell", "line"]], on="cell")
    table = study.drawn[study.drawn["cell"].isin(points["cell"]) & (study.drawn["method"] != DENSE)]
    # Where every panel has one line, its title names it, in the colour that its series has in all charts.
    is_named = table.groupby(["field", "series"]).size().le(1).all() and table["line"].is_unique
    styles = marks.ramp(table)
    if is_named:
        styles = {line: study.styles[name] for line, name in zip(table["line"], table["series"], strict=True)}
    lowest = points["density"].min()

    def plot(title: str, group: pd.DataFrame) -> Plot:
        own = points[points["cell"].isin(group["cell"])]
        text = f"Density of each layer for {title}, lines: {', '.join(dict.fromkeys(own['line']))}"
        return Plot(title=title, words=text, chart=_chart(own, styles=styles, lowest=lowest))

    return draw(
        [
            partial(plot, marks.joined(field, name), group)
            for (field, name), group in table.groupby(["field", "series"], sort=False)
        ],
        name="layers",
        title="Density per layer",
        caption="Fraction of active weights in each layer at the end of training, mean over seeds; first layer at the top."
        f"{study.drawn_note}",
        legend=() if is_named else marks.entries(styles, table["line"]),
    )


def _chart(points: pd.DataFrame, *, styles: marks.Styles, lowest: float) -> Chart:
    names = list(dict.fromkeys(points["layer"]))
    scale = alt.Scale(type="log", domain=[lowest, 1], padding=8, nice=False)
    across = alt.X(
        "density:Q",
        title="density",
        scale=scale,
        axis=alt.Axis(format="~g", values=marks.log_ticks(lowest, 1)),
    )
    axis = alt.Axis(
        grid=True, labelFontSize=10, labelLimit=150, domain=False, ticks=False, labelOverlap=False
    )
    base = alt.Chart(marks.rows(points, ["layer", "density", "line"])).mark_point(
        filled=True, size=50, opacity=0.9
    )
    chart: Chart = base.encode(
        x=across,
        y=alt.Y("layer:N", title=None, sort=names, axis=axis),
        color=marks.color(styles, "line"),
        tooltip=[alt.Tooltip("layer:N"), alt.Tooltip("line:N", title="setting"), alt.Tooltip("density:Q", format=".4~g")],
    ).properties(height=(20 if len(names) <= 20 else 13) * len(names) + 10)
    return chart
