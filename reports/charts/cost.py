"""Plots a measure against cost: active parameters, counted training FLOPs, training time."""

from __future__ import annotations

from functools import partial

import altair as alt
import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Figure, Plot, draw
from pruneyard.reports.glossary import cost_names, measure_title
from pruneyard.reports.study import Study

_COST_UNITS = {"num_active": "", "train_flops": "", "train_s": " (s)"}
"""Units of the costs, for axis titles."""
_FLUSH = 16  # pixels; a label this close to the end of the axis would be cut off by the edge of a narrow panel
_COLUMNS = ["mean", "low", "high", "num", "series", "label"]


def cost(study: Study, measure: str) -> list[Figure]:
    """Returns the figure with one panel per cost in which cells differ; an empty list if there is none."""
    table = study.measured(measure)
    table = table[table["cell"].isin(study.drawn["cell"])]
    names = cost_names(study.cells["kind"])

    def plot(column: str) -> Plot:
        title = names[column] + _COST_UNITS[column]
        points = table[table[column] > 0]
        text = f"{measure_title(measure)} versus {title} of {len(points)} settings"
        chart = _chart(points, x=column, x_title=title, measure=measure, styles=study.styles)
        return Plot(title=title, words=text, chart=chart)

    return draw(
        [partial(plot, column) for column in _COST_UNITS if table.loc[table[column] > 0, column].nunique() > 1],
        name="cost",
        title=f"{formats.sentence_case(measure_title(measure))} versus cost",
        caption="One point per setting, mean over completed seeds. FLOPs count two per multiply-add and exclude masked weights; "
        f"times depend on the machine and its load. {marks.INTERVAL}{study.drawn_note}",
        legend=marks.entries(study.styles, table["series"]),
    )


def _chart(points: pd.DataFrame, *, x: str, x_title: str, measure: str, styles: marks.Styles) -> Chart:
    lowest, largest = float(points[x].min()), float(points[x].max())
    if largest > 5 * lowest:
        scale = alt.Scale(type="log", nice=False, padding=14)
        axis = alt.Axis(format="~s", values=marks.log_ticks(lowest, largest), labelFlush=_FLUSH)
    else:
        scale = alt.Scale(zero=False, padding=14)
        axis = alt.Axis(format="~s", tickCount=4, labelFlush=_FLUSH)
    base = alt.Chart(marks.rows(points, [x, *_COLUMNS])).encode(
        x=alt.X(f"{x}:Q", title=x_title, scale=scale, axis=axis),
        color=marks.color(styles, "series"),
    )
    domain = list(marks.domain(measure, points))
    height = alt.Scale(domain=domain, nice=False)
    up = alt.Y("mean:Q", title=measure_title(measure), scale=height)
    bars = base.mark_rule(strokeWidth=1.2, opacity=0.6, clip=True).encode(
        y=alt.Y("low:Q", title=measure_title(measure), scale=height), y2="high:Q"
    )
    tooltip = [*marks.tooltip("label", measure), alt.Tooltip(f"{x}:Q", title=x_title, format=".3~s")]
    symbols = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=up, shape=marks.shape(styles, "series"), tooltip=tooltip
    )
    return alt.layer(bars, symbols).properties(height=250)
