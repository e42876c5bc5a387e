"""Plots a measure against density or images per class: one line per method, and a reference line for the dense network.

If all methods have the same density (or images per class), a dot plot with one row per method replaces the lines.
"""

from __future__ import annotations

from functools import partial

import altair as alt
import pandas as pd

from pruneyard.reports import formats, palette
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Figure, Plot, draw
from pruneyard.reports.glossary import measure_title
from pruneyard.reports.study import CALIBRATE, DENSE, Study

_COLUMNS = ["mean", "low", "high", "num", "series", "label"]


def against_density(study: Study, measure: str) -> list[Figure]:
    """Returns the figure over densities; an empty list if no cell has a density."""
    return _figure(
        study, measure, x="density", title="density (active / prunable weights)"
    )


def against_ipc(study: Study, measure: str) -> list[Figure]:
    """Returns the figure over images per class; an empty list if no cell has them."""
    return _figure(study, measure, x="ipc", title="synthetic images per class")


def _figure(study: Study, measure: str, *, x: str, title: str) -> list[Figure]:
    table = study.measured(measure)
    table = table[table["cell"].isin(study.drawn["cell"])]
    if measure.endswith("/accuracy") or not study.calibrates_only:
        # Most calibrators keep the class that is predicted, so their points would lie on each other.
        # Beside the networks that they calibrate, they have a section of their own.
        table = table[table["kind"] != CALIBRATE]
    # Over images per class there is no dense reference.
    is_dense = (table["method"] == DENSE) & (x == "density")
    # A logarithmic axis has no 0.
    points = table[(table[x] > 0) & ~is_dense]
    styles = {name: style for name, style in study.styles.items() if name in set(points["series"])}

    def plot(field: str, group: pd.DataFrame) -> Plot:
        dense = table[is_dense & (table["field"] == field)]
        if group[x].nunique() == 1:
            chart = _rows(group, dense, location=_location(x, group[x]), measure=measure, styles=styles)
        else:
            chart = _chart(group, dense, x=x, x_title=title, measure=measure, styles=styles)
        return Plot(title=field, words=_words(measure, x, pd.concat([dense, group])), chart=chart)

    legend = marks.entries(styles, points["series"])
    return draw(
        [partial(plot, str(field), group) for field, group in points.groupby("field", sort=False)],
        name=f"against-{x}",
        title=_title(measure, x, points[x]),
        caption=f"Mean over completed seeds at the last step of each run. {marks.INTERVAL}{study.drawn_note}",
        legend=[*legend, marks.DENSE_ENTRY] if is_dense.any() else legend,
    )


def _title(measure: str, x: str, values: pd.Series[float]) -> str:
    name = formats.sentence_case(measure_title(measure))
    if values.nunique() == 1:
        return f"{name} {_location(x, values)}"
    return f"{name} versus {'images per class' if x == 'ipc' else x}"


def _location(x: str, values: pd.Series[float]) -> str:
    """Returns the one density or number of images per class that all points share, in words."""
    return f"at {formats.plural(int(values.iloc[0]), 'image')} per class" if x == "ipc" else f"at density {values.iloc[0]:g}"


def _words(measure: str, x: str, table: pd.DataFrame) -> str:
    values = [f"{label} {mean:.4f}" for label, mean in zip(table["label"], table["mean"], strict=True)]
    return f"{measure_title(measure)} versus {x}: {'; '.join(values[:40])}"


def _chart(
    points: pd.DataFrame, dense: pd.DataFrame, *, x: str, x_title: str, measure: str, styles: marks.Styles
) -> Chart:
    ticks = sorted(set(points[x]))
    axis = alt.Axis(values=ticks, format="~g") if len(ticks) <= 9 else alt.Axis(format="~g", tickCount=8)
    scale = alt.Scale(type="log", padding=24, nice=False)
    base = alt.Chart(marks.rows(points, [x, *_COLUMNS])).encode(
        x=alt.X(f"{x}:Q", title=x_title, scale=scale, axis=axis), color=marks.color(styles, "series")
    )
    domain = marks.domain(measure, pd.concat([points, dense]) if len(dense) else points)
    scale = alt.Scale(domain=list(domain), nice=False)
    up = alt.Y("mean:Q", title=measure_title(measure), scale=scale)
    span = {"y": alt.Y("low:Q", title=measure_title(measure), scale=scale), "y2": alt.Y2("high:Q")}
    lines = base.mark_line(strokeWidth=1.5, opacity=0.55).encode(y=up)
    bars = base.mark_rule(strokeWidth=1.5, clip=True).encode(**span)
    symbols = base.mark_point(filled=True, size=80, opacity=1).encode(
        y=up, shape=marks.shape(styles, "series"), tooltip=marks.tooltip("label", measure)
    )
    reference = alt.Chart(marks.rows(dense, _COLUMNS))
    band = reference.mark_rect(color=palette.REFERENCE, opacity=0.13, clip=True).encode(**span)
    rule = reference.mark_rule(color=palette.REFERENCE, strokeDash=marks.DASHES, strokeWidth=1.5).encode(
        y=up, tooltip=marks.tooltip("label", measure)
    )
    # Later layers are drawn on top.
    layers = [band, rule, lines, bars, symbols] if len(dense) else [lines, bars, symbols]
    return alt.layer(*layers).properties(height=340 if len(ticks) > 3 else 240)


def _rows(
    points: pd.DataFrame, dense: pd.DataFrame, *, location: str, measure: str, styles: marks.Styles
) -> Chart:
    """Returns a dot plot with one row per series and the measure on the x axis."""
    title = f"{measure_title(measure)} {location}"
    domain = marks.domain(measure, pd.concat([points, dense]) if len(dense) else points)
    scale = alt.Scale(domain=list(domain), nice=False)
    ticks = alt.Axis(tickCount=5, labelSeparation=8)
    across = alt.X("mean:Q", title=title, scale=scale, axis=ticks)
    span = {"x": alt.X("low:Q", title=title, scale=scale, axis=ticks), "x2": alt.X2("high:Q")}
    names = [name for name in styles if name in set(points["series"])]
    axis = alt.Axis(grid=True, domain=False, ticks=False, labelLimit=200, labelOverlap=False)
    base = alt.Chart(marks.rows(points, _COLUMNS)).encode(
        y=alt.Y("series:N", title=None, sort=names, axis=axis), color=marks.color(styles, "series")
    )
    bars = base.mark_rule(strokeWidth=1.5, clip=True).encode(**span)
    symbols = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=across, shape=marks.shape(styles, "series"), tooltip=marks.tooltip("label", measure)
    )
    reference = alt.Chart(marks.rows(dense, _COLUMNS))
    band = reference.mark_rect(color=palette.REFERENCE, opacity=0.13, clip=True).encode(**span)
    rule = reference.mark_rule(color=palette.REFERENCE, strokeDash=marks.DASHES, strokeWidth=1.5).encode(
        x=across, tooltip=marks.tooltip("label", measure)
    )
    layers = [band, rule, bars, symbols] if len(dense) else [bars, symbols]
    return alt.layer(*layers).properties(height=34 * len(names) + 20)
