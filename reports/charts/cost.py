"""What a cell cost beside what it reached: active parameters, counted training FLOPs, training time."""

from __future__ import annotations

import altair as alt
import pandas as pd

from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Figure, Plot, draw
from pruneyard.reports.glossary import cost_names
from pruneyard.reports.study import Study

_COSTS = {"num_active": "", "train_flops": "", "train_s": " in s"}
"""Units, where there is one."""
_COLUMNS = ["mean", "low", "high", "num", "series", "label"]


def cost(study: Study, measure: str) -> list[Figure]:
    """The figure with a panel for each cost in which cells differ."""
    table = study.measured(measure)
    plots = []
    called = cost_names(study.cells["kind"])
    for name, unit in _COSTS.items():
        title = called[name] + unit
        points = table[table[name] > 0]
        if points[name].nunique() > 1:
            text = f"{marks.words(measure)} against {title} of {len(points)} cells"
            chart = _chart(points, x=name, x_title=title, measure=measure, styles=study.styles)
            plots.append(Plot(title=title, words=text, chart=chart))
    return draw(
        plots,
        name="cost",
        title=f"{marks.words(measure).capitalize()} against cost",
        caption="One point per cell, means over completed seeds. FLOPs count two per multiply-add and know "
        f"about masks; times depend on the machine and its load. {marks.INTERVAL}",
        legend=marks.entries(study.styles, table["series"]),
    )


def _chart(points: pd.DataFrame, *, x: str, x_title: str, measure: str, styles: marks.Styles) -> Chart:
    lowest, largest = float(points[x].min()), float(points[x].max())
    if largest > 5 * lowest:
        scale = alt.Scale(type="log", nice=False, padding=14)
        axis = alt.Axis(format="~s", values=marks.log_ticks(lowest, largest))
    else:
        scale = alt.Scale(zero=False, padding=14)
        axis = alt.Axis(format="~s", tickCount=4)
    base = alt.Chart(marks.rows(points, [x, *_COLUMNS])).encode(
        x=alt.X(f"{x}:Q", title=x_title, scale=scale, axis=axis),
        color=marks.color(styles, "series"),
    )
    domain = list(marks.domain(measure, points))
    height = alt.Scale(domain=domain, nice=False)
    up = alt.Y("mean:Q", title=marks.words(measure), scale=height)
    bars = base.mark_rule(strokeWidth=1.2, opacity=0.6, clip=True).encode(
        y=alt.Y("low:Q", title=marks.words(measure), scale=height), y2="high:Q"
    )
    tooltip = [*marks.tooltip("label", measure), alt.Tooltip(f"{x}:Q", title=x_title, format=".3~s")]
    symbols = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=up, shape=marks.shape(styles, "series"), tooltip=tooltip
    )
    return alt.layer(bars, symbols).properties(height=250)
