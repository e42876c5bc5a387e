"""Plots a matrix as squares, with their values where these fit."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from pruneyard.reports import palette
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Plot

MAX_COLUMNS_WITH_VALUES = 6
"""Columns of a matrix whose squares show their values."""


def matrix(
    table: pd.DataFrame, *, title: str, words: str, y: str, x: str, low: float | None = None, order: Sequence[str] | None = None
) -> Plot:
    """Returns squares coloured by `value`, at `row` and `column`; `one` and `other` name them in tooltips."""
    smallest = float(table["value"].min()) if low is None else low
    largest = float(table["value"].max())
    # Opacity instead of a scheme: it reads on a light and on a dark page.
    scale = alt.Scale(domain=[smallest, largest if largest > smallest else smallest + 1], range=[0.04, 1])
    rows = alt.Y("row:N" if order else "row:O", title=y or None, sort=list(order) if order else alt.Undefined)
    chart = (
        alt.Chart(marks.rows(table, ["row", "column", "value", "one", "other"]))
        .mark_rect(color=palette.METHOD_COLORS[0])
        .encode(
            x=alt.X("column:O", title=x, axis=alt.Axis(labelAngle=0)),
            y=rows,
            opacity=alt.Opacity("value:Q", scale=scale, legend=None),
            tooltip=[
                alt.Tooltip("one:N", title="row"),
                alt.Tooltip("other:N", title="column"),
                alt.Tooltip("value:Q", format=".3f"),
            ],
        )
        .properties(height=max(90, 16 * table["row"].nunique()))
    )
    if table["column"].nunique() > MAX_COLUMNS_WITH_VALUES:
        return Plot(title=title, words=words, chart=chart)
    dark = f"datum.value > {(smallest + largest) / 2}"
    # The colour of the text around the chart, which is dark on a light page.
    ink = alt.condition(dark, alt.value("white"), alt.value("currentColor"))
    numbers = chart.mark_text(fontSize=10).encode(text=alt.Text("value:Q", format=".2f"), opacity=alt.value(1), color=ink)
    return Plot(title=title, words=words, chart=alt.layer(chart, numbers))
