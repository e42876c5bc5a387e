"""Plots learning curves and explored weights: one panel per method, one line per density, the dense network as reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pruneyard.reports import palette, series
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Figure, Plot, draw
from pruneyard.reports.glossary import bounds, measure_title
from pruneyard.reports.study import DENSE, Study

_COLUMNS = ["epoch", "mean", "low", "high", "num", "line", "cell"]
_NAMES = ("accuracy", "nll")
_SPLITS = ("val", "test", "train")
_EXPLORED = "train/explored"
_POINTS, _FEWEST_POINTS = 2_500, 15
"""Points of all lines of one figure together, as far as each line keeps enough of them."""
MAX_CHOICES = 12_000
"""Points of all lines of all measures that a reader may choose."""
MAX_OTHERS = 4  # figures of what training functions report beside accuracy and NLL


def learning(study: Study, measure: str | None = None) -> list[Figure]:
    """Returns the figure of a measure; an empty list if no run was evaluated more than once.

    By default figures of accuracy and NLL, each on the first of val, test and train that was evaluated more than once, one of
    the explored weights if masks changed in any cell, and those of what training functions of the user's own report.
    """
    points = _points(study)
    chosen = _default_measures(study, points) if measure is None else [measure]
    return [figure for name in chosen if name in points for figure in _figure(study, name, points[name])]


def _default_measures(study: Study, points: Mapping[str, pd.DataFrame]) -> list[str]:
    preferred = [[f"{split}/{name}" for split in _SPLITS] for name in _NAMES]
    chosen = [next((measure for measure in measures if measure in points), "") for measures in preferred]
    explored = points.get(_EXPLORED)
    # Explored weights that never grow mean fixed masks, which need no figure.
    if explored is not None and (explored.groupby("cell")["mean"].transform("max") > explored["mean"]).any():
        chosen.append(_EXPLORED)
    known = {_EXPLORED, *(measure for measures in preferred for measure in measures)}
    others = [measure for measure in _reported_by_functions(study) if measure in points and measure not in known]
    return chosen + others[:MAX_OTHERS]


def further_curves(study: Study) -> dict[str, Any]:
    """Returns the curves of all measures that a reader may choose in place of those drawn, as compact JSON.

    `titles` and `bounds` by measure; `curves` by measure and cell: lists of epochs, means and ends of intervals. As many as
    `MAX_CHOICES` points allow, those of `_NAMES` first; empty where no run was evaluated more than once.
    """
    points = _points(study)
    order = {name: place for place, name in enumerate(_NAMES)}
    found: dict[str, Any] = {"titles": [], "bounds": [], "curves": []}
    num_points = 0
    for measure in sorted(points, key=lambda name: (order.get(name.partition("/")[2], 9), name)):
        num_points += len(points[measure])
        if num_points <= MAX_CHOICES:
            lines = points[measure].groupby("cell", sort=False)
            found["titles"].append(measure_title(measure))
            found["bounds"].append([bound if math.isfinite(bound) else None for bound in bounds(measure)])
            found["curves"].append({str(cell): [_short(own[name]) for name in _COLUMNS[:4]] for cell, own in lines})
    return found


def _short(values: pd.Series[float]) -> list[float | None]:
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values]


def _reported_by_functions(study: Study) -> list[str]:
    """Returns the measures of runs of kind `function`, sorted."""
    keys = study.drawn_runs.loc[study.drawn_runs["kind"] == "function", "run_key"]
    return sorted(study.history.loc[study.history["run_key"].isin(keys), "measure"].unique())


def _points(study: Study) -> dict[str, pd.DataFrame]:
    """Returns the points of all curves of more than one point, by measure, with columns `cell, step, ..., line`."""
    points = series.thinned(study.learning_curves, _points_per_line(study))
    points = points[points.groupby(["measure", "cell"])["step"].transform("size") > 1].dropna(subset=["mean"])
    points = points.merge(study.drawn[["cell", "line"]], on="cell")
    return {str(measure): own for measure, own in points.groupby("measure", sort=False)}


def _points_per_line(study: Study) -> int:
    """Returns how many points a line has at most: fewer where there are so many lines that the page would become large."""
    return min(max(_POINTS // max(len(study.drawn), 1), _FEWEST_POINTS), series.MAX_POINTS)


def _figure(study: Study, measure: str, points: pd.DataFrame) -> list[Figure]:
    table = study.drawn[study.drawn["cell"].isin(points["cell"])]
    is_dense = table["method"] == DENSE
    shown = table if is_dense.all() else table[~is_dense]
    styles = marks.ramp(shown)
    is_log = _is_log(measure, points)
    # One domain for all panels, so that they can be compared.
    domain = _log_domain(points) if is_log else marks.domain(measure, points)

    def plot(field: str, name: str, group: pd.DataFrame) -> Plot:
        own = points[points["cell"].isin(group["cell"])]
        # A dense cell is not its own reference.
        behind = table[is_dense & (table["field"] == field) & ~table["cell"].isin(group["cell"])]
        dense = points[points["cell"].isin(behind["cell"])]
        names = ", ".join(dict.fromkeys(filter(None, own["line"])))
        unit = "iteration" if (group["kind"] == "distill").all() else "epoch"
        text = f"{measure_title(measure)} by {unit} for {marks.joined(field, name)}{f', lines: {names}' if names else ''}"
        chart, hover = _chart(
            own, dense, measure=measure, styles=styles, domain=domain, is_log=is_log, unit=unit
        )
        return Plot(title=marks.joined(field, name), words=text, chart=chart, hover=hover)

    legend = marks.entries(styles, shown["line"], lines=True)
    return draw(
        [
            partial(plot, str(field), str(name), group)
            for (field, name), group in shown.groupby(["field", "series"], sort=False)
        ],
        name=f"learning-{measure.replace('/', '-')}",
        title="Explored weights during training" if measure == _EXPLORED else f"Learning curves: {measure_title(measure)}",
        caption=f"Mean over completed seeds, at most {_points_per_line(study)} points per line. "
        f"{marks.INTERVAL}{study.drawn_note}",
        legend=[*legend, marks.DENSE_ENTRY] if is_dense.any() and not is_dense.all() else legend,
    )


def _is_log(measure: str, points: pd.DataFrame) -> bool:
    """Returns whether the measure is a positive loss whose means span more than a factor of 8."""
    least, most = points["mean"].min(), points["mean"].max()
    return measure.endswith(("/nll", "/loss")) and bool(least > 0 and most / least > 8)


def _log_domain(points: pd.DataFrame) -> tuple[float, float]:
    """Returns the range of all means and bands, cut at half the smallest mean, because a band may extend below zero."""
    values = points[["mean", "low", "high"]].to_numpy(dtype="float64")
    finite = values[np.isfinite(values)]
    return max(float(finite.min()), float(points["mean"].min()) / 2), float(finite.max())


def _chart(
    points: pd.DataFrame,
    dense: pd.DataFrame,
    *,
    measure: str,
    styles: marks.Styles,
    domain: tuple[float, float],
    is_log: bool,
    unit: str,
) -> tuple[Chart, alt.Chart]:
    """Returns the chart and its layer of invisible points that show tooltips; `unit` is the title of the x axis."""
    scale = alt.Scale(type="log" if is_log else "linear", domain=list(domain), nice=False)
    axis = (
        alt.Axis(format="~g", values=marks.log_ticks(*domain))
        if is_log
        else alt.Axis(format=marks.distinct_ticks(*domain), tickCount=5)
    )
    up = alt.Y("mean:Q", title=measure_title(measure), scale=scale, axis=axis)
    ticks = alt.Axis(tickCount=5, tickMinStep=1) if unit == "iteration" else alt.Axis(tickCount=5)
    base = alt.Chart(marks.rows(points, _COLUMNS)).encode(
        x=alt.X("epoch:Q", title=unit, axis=ticks), color=marks.color(styles, "line")
    )
    # Below the axis, a logarithm may not exist: the band is cut at the lower edge of the domain.
    above = f"isValid(datum.low) ? max(datum.low, {domain[0]}) : null"
    band = (
        base.transform_calculate(bottom=above)
        .mark_area(opacity=0.14, clip=True)
        .encode(y=alt.Y("bottom:Q", title=measure_title(measure), scale=scale, axis=axis), y2="high:Q")
    )
    lines = base.mark_line(strokeWidth=1.8, clip=True).encode(y=up)
    reference = alt.Chart(marks.rows(dense, _COLUMNS)).mark_line(
        color=palette.REFERENCE, strokeDash=marks.DASHES, strokeWidth=1.5, clip=True
    )
    layers = [reference.encode(x="epoch:Q", y=up, detail="cell:N")] if len(dense) else []
    hover = base.mark_point(size=60, opacity=0, filled=True).encode(
        y=up, tooltip=[alt.Tooltip("epoch:Q", title=unit), *marks.tooltip("line", measure)]
    )
    return alt.layer(*layers, band, lines).properties(height=230), hover
