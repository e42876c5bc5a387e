"""Plots a measure against cost: active parameters, counted training FLOPs, training time."""

from __future__ import annotations

from functools import partial

import altair as alt
import pandas as pd

from pruneyard.reports import formats
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Figure, Plot, draw
from pruneyard.reports.glossary import cost_names, measure_title
from pruneyard.reports.study import CALIBRATE, Study

_COSTS = ("num_active", "train_flops", "train_s")
_FLUSH = 16  # pixels; a label this close to the end of the axis would be cut off by the edge of a narrow panel
_COLUMNS = ["mean", "low", "high", "num", "series", "label"]


def cost(study: Study, measure: str) -> list[Figure]:
    """Returns the figure with one panel per cost in which cells differ; an empty list if there is none."""
    table = study.measured(measure)
    table = table[table["cell"].isin(study.drawn["cell"])]
    if measure.endswith("/accuracy") or not study.calibrates_only:
        # Most calibrators keep the class that is predicted, so their accuracy says nothing about their cost.
        # Beside the networks that they calibrate, they have a section of their own.
        table = table[table["kind"] != CALIBRATE]
    names = cost_names(study.cells["kind"])

    def plot(column: str) -> Plot:
        points, title = table[table[column] > 0], names[column]
        if column == "train_s":
            unit, seconds = formats.time_unit(float(points[column].max()))
            points, title = points.assign(train_s=points[column] / seconds), f"{title} ({unit})"
        text = f"{measure_title(measure)} versus {title} of {len(points)} settings"
        chart = _chart(points, x=column, x_title=title, measure=measure, styles=study.styles)
        return Plot(title=title, words=text, chart=chart)

    return draw(
        [partial(plot, column) for column in _COSTS if table.loc[table[column] > 0, column].nunique() > 1],
        name="cost",
        title=f"{formats.sentence_case(measure_title(measure))} versus cost",
        caption="One point per setting, mean over completed seeds. FLOPs count two per multiply-add and exclude masked weights; "
        f"times depend on the machine and its load. {marks.INTERVAL}{study.drawn_note}",
        legend=marks.entries(study.styles, table["series"]),
    )


def _chart(points: pd.DataFrame, *, x: str, x_title: str, measure: str, styles: marks.Styles) -> Chart:
    lowest, largest = float(points[x].min()), float(points[x].max())
    # Times are in a unit of their own; SI prefixes suit counts alone.
    form, digits = ("~g", ".3~g") if x == "train_s" else ("~s", ".3~s")
    if largest > 5 * lowest:
        scale = alt.Scale(type="log", nice=False, padding=14)
        axis = alt.Axis(format=form, values=marks.log_ticks(lowest, largest), labelFlush=_FLUSH)
    else:
        scale = alt.Scale(zero=False, padding=14)
        axis = alt.Axis(format=form, tickCount=4, labelFlush=_FLUSH)
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
    tooltip = [*marks.tooltip("label", measure), alt.Tooltip(f"{x}:Q", title=x_title, format=digits)]
    symbols = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=up, shape=marks.shape(styles, "series"), tooltip=tooltip
    )
    return alt.layer(bars, symbols).properties(height=250)
