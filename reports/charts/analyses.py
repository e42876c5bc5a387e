"""Plots analyses of a whole study: shares of runs at a target, Pareto fronts, performance profiles and importances."""

from __future__ import annotations

from functools import partial

import altair as alt
import numpy as np
import pandas as pd

from pruneyard.reports import formats, palette
from pruneyard.reports.analysis.aggregates import profiles
from pruneyard.reports.analysis.front import front_points
from pruneyard.reports.analysis.importance import importances
from pruneyard.reports.analysis.reaching import costs_to_target, natural_targets
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Figure, Plot, draw
from pruneyard.reports.glossary import LARGER_IS_BETTER, cost_names, measure_title
from pruneyard.reports.statistics.reaching import share_reached
from pruneyard.reports.study import Study

_SHARE = alt.Scale(domain=[0, 1])


def time_to_target(study: Study, measure: str) -> list[Figure]:
    """Returns the share of runs that reached the baseline's final value over epochs, one panel per field, size and target.

    Kaplan-Meier estimates: a run that ends without the target counts up to its end. An empty list where no run reaches it.
    """
    targets = natural_targets(study, measure)
    if not targets:
        return []
    runs = costs_to_target(study, measure, target=targets)
    runs = runs[runs["cell"].isin(study.drawn["cell"])].merge(study.drawn[["cell", "field", "series", "line"]], on="cell")
    if not runs["reached"].any():
        return []
    styles = {name: style for name, style in study.styles.items() if name in set(runs["series"])}

    def plot(title: str, own: pd.DataFrame) -> Plot:
        rows = pd.concat([_steps(each, str(name)) for name, each in own.groupby("series", sort=False)], ignore_index=True)
        ends = rows.groupby("series", sort=False)["share"].last()
        shares = ", ".join(f"{name} {end:.2f}" for name, end in ends.items())
        target = f"target {own['target'].iloc[0]:.4g}"
        words = f"Share of runs that reached the {target}, {title}: {shares}"
        return Plot(title=marks.joined(title, target), words=words, chart=_share_chart(rows, styles))

    # Settings at one size may have several baselines, such as the plain gradients of two methods.
    groups = runs.groupby(["field", "line", "target"], sort=False)
    return draw(
        [partial(plot, marks.joined(*map(str, names[:2])), own) for names, own in groups if own["series"].nunique() > 1],
        name="time-to-target",
        title=f"Runs that reached the baseline's {measure_title(measure)}",
        caption="Share of all completed and pruned runs, by the Kaplan-Meier estimate: a run that ends without the target counts "
        "up to its end. The target is the mean final value of the setting of the baseline that agrees in all other columns."
        f"{study.drawn_note}",
        legend=marks.entries(styles, runs["series"], lines=True),
    )


def _steps(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Returns the corners of the estimate from cost 0 to the longest run: `series, cost, share`."""
    estimate = share_reached(runs["cost"], runs["reached"])
    costs = np.concatenate([[0.0], estimate.costs, [float(runs["cost"].max())]])
    shares = np.concatenate([[0.0], estimate.share, estimate.share[-1:] if len(estimate.share) else [0.0]])
    return pd.DataFrame({"series": name, "cost": costs, "share": shares})


def _share_chart(rows: pd.DataFrame, styles: marks.Styles) -> Chart:
    chart: alt.Chart = (
        alt.Chart(marks.rows(rows, ["series", "cost", "share"]))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X("cost:Q", title="epochs", axis=alt.Axis(tickCount=5)),
            y=alt.Y("share:Q", title="share of runs at the target", scale=_SHARE, axis=alt.Axis(format="~g", tickCount=5)),
            color=marks.color(styles, "series"),
            tooltip=[alt.Tooltip("series:N"), alt.Tooltip("cost:Q", title="epochs"), alt.Tooltip("share:Q", format=".2f")],
        )
        .properties(height=240)
    )
    return chart


def pareto(study: Study, measure: str) -> list[Figure]:
    """Returns the measure against active parameters with the Pareto front as a line; an empty list without such a cost."""
    if measure.partition("/")[2] not in LARGER_IS_BETTER or study.cells["num_active"].isna().all():
        return []
    points = front_points(study, measure)
    points = points[points["series"].isin(study.styles)]
    cost = cost_names(study.cells["kind"])["num_active"]
    styles = {name: style for name, style in study.styles.items() if name in set(points["series"])}

    def plot(field: str, own: pd.DataFrame) -> Plot:
        front = own[own["on_front"]].sort_values("cost")
        words = f"Pareto front of {measure_title(measure)} against {cost}: " + ", ".join(front["setting"])
        return Plot(title=field, words=words, chart=_front_chart(own, front, measure=measure, cost=cost, styles=styles))

    return draw(
        [partial(plot, str(field), own) for field, own in points.groupby("field", sort=False)],
        name="pareto",
        title=f"Pareto front of {measure_title(measure)} and {cost}",
        caption=f"One point per setting, mean over seeds; the line joins those that no other dominates. {marks.INTERVAL}",
        legend=marks.entries(styles, points["series"]),
    )


def _front_chart(points: pd.DataFrame, front: pd.DataFrame, *, measure: str, cost: str, styles: marks.Styles) -> Chart:
    columns = ["cost", "mean", "low", "high", "num", "series", "setting"]
    x = alt.X("cost:Q", title=cost, scale=alt.Scale(type="log", nice=False, padding=14), axis=alt.Axis(format="~s", tickCount=5))
    scale = alt.Scale(domain=list(marks.domain(measure, points)), nice=False)
    y = alt.Y("mean:Q", title=measure_title(measure), scale=scale)
    base = alt.Chart(marks.rows(points, columns)).encode(x=x, color=marks.color(styles, "series"))
    line = alt.Chart(marks.rows(front, ["cost", "mean"])).mark_line(
        interpolate="step-after", color=palette.REFERENCE, strokeWidth=1.5
    )
    bars = base.mark_rule(strokeWidth=1.2, opacity=0.6, clip=True).encode(
        y=alt.Y("low:Q", title=measure_title(measure), scale=scale), y2="high:Q"
    )
    symbols = base.mark_point(filled=True, size=70, opacity=1).encode(
        y=y, shape=marks.shape(styles, "series"), tooltip=marks.tooltip("setting", measure)
    )
    return alt.layer(line.encode(x=x, y=y), bars, symbols).properties(height=280)


def profile(study: Study, measure: str) -> list[Figure]:
    """Returns the performance profiles of the methods over all tasks; an empty list without two tasks and seeds in common."""
    try:
        rows = profiles(study, measure)
    except ValueError:  # too few tasks or seeds in common: the study has no profile
        return []
    styles = {name: style for name, style in study.styles.items() if name in set(rows["method"])}
    rows = rows[rows["method"].isin(styles)]

    def plot() -> Plot:
        base = alt.Chart(marks.rows(rows, ["method", "threshold", "share", "share_low", "share_high"])).encode(
            x=alt.X("threshold:Q", title=f"threshold of {measure_title(measure)}", scale=alt.Scale(zero=False, nice=False)),
            color=marks.color(styles, "method"),
        )
        y = alt.Y("share:Q", title="share of runs above the threshold", scale=_SHARE, axis=alt.Axis(format="~g", tickCount=5))
        band = base.mark_area(opacity=0.15, interpolate="step-after").encode(
            y=alt.Y("share_low:Q", title="share of runs above the threshold", scale=_SHARE), y2="share_high:Q"
        )
        line = base.mark_line(interpolate="step-after", strokeWidth=2).encode(y=y)
        words = f"Performance profiles of {', '.join(styles)} in {measure_title(measure)}"
        return Plot(title="", words=words, chart=alt.layer(band, line).properties(height=280))

    return draw(
        [plot],
        name="profile",
        title=f"Performance profile, {measure_title(measure)}",
        caption="Share of all tasks and seeds above each threshold, with 95% bootstrap bands over the seeds of every task.",
        legend=marks.entries(styles, styles, lines=True),
    )


def importance(study: Study, measure: str) -> list[Figure]:
    """Returns the importances of the hyperparameters as bars; an empty list where there are too few settings."""
    try:
        rows = importances(study, measure)
    except ValueError:  # too few settings or hyperparameters: the study has no importances
        return []

    def plot() -> Plot:
        order = list(rows["setting"])
        color = palette.methods(["importance"])["importance"][0]
        axis = alt.Axis(format="~g", tickCount=5)
        chart = alt.Chart(marks.rows(rows, ["setting", "importance"])).mark_bar(color=color)
        chart = chart.encode(
            x=alt.X("importance:Q", title="share of the explained variance", scale=_SHARE, axis=axis),
            y=alt.Y("setting:N", title=None, sort=order, axis=alt.Axis(labelLimit=260, labelOverlap=False)),
            tooltip=[alt.Tooltip("setting:N"), alt.Tooltip("importance:Q", format=".3f")],
        )
        words = ", ".join(f"{name} {value:.2f}" for name, value in rows[["setting", "importance"]].itertuples(index=False))
        title = f"Importance for {measure_title(measure)}"
        return Plot(title="", words=f"{title}: {words}", chart=chart.properties(height=26 * len(order) + 20))

    num = int(rows["num_settings"].iloc[0])
    return draw(
        [plot],
        name="importance",
        title=f"Importance of hyperparameters for {measure_title(measure)}",
        caption=f"Optuna's fANOVA over {formats.plural(num, 'setting')}, each by its mean over seeds: the share of the variance "
        "of a random forest's prediction that a hyperparameter explains, alone and in interactions. Only keys that all have.",
    )
