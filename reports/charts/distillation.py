"""Plots the progress of distillation: accuracy over time, with the speed-up at equal accuracy, and the minimised losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import altair as alt
import numpy as np
import pandas as pd

from pruneyard.reports import formats, series
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Figure, Plot, draw
from pruneyard.reports.glossary import measure_title
from pruneyard.reports.speedup import SHARES, Interval, Speedup, places, points_of_runs, speedups
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table, Value

_MEASURES = ("test/accuracy", "val/accuracy")
_MINIMISED = ("_loss", "_error", "_gap")
_COLUMNS = ["x", "value", "series", "label", "run_key", "seed", "step"]
_ITERATIONS = "iterations"
_LOG_RATIO = 20  # an axis is logarithmic if its largest value is more than this many times its smallest
_TABLE_NOTE = (
    "Runs are paired by seed; each pair's target is set by its own baseline run. A target counts as reached at the first "
    "evaluation that reaches it, so the time can be late by up to one evaluation interval. Speed-up: geometric mean over "
    "seeds with its 95% interval; missing if any seed did not reach the target. Preparation inside a run (network pools, "
    "expert trajectories) is included in its time."
)


def over_time(study: Study) -> list[Figure]:
    """Returns accuracy over distillation time; an empty list if no run was evaluated more than once."""
    for measure in _MEASURES:
        points = points_of_runs(study, measure)
        points = points[points.groupby("run_key")["step"].transform("size") > 1].rename(columns={"wall_s": "x"})
        if len(points):
            return _over_time(study, measure, points)
    return []


def minimised(study: Study) -> list[Figure]:
    """Returns one figure over iterations for each loss, error or gap that distillation minimised and runs reported."""
    names = {name for name in set(study.history["measure"]) if name.startswith("train/") and name.endswith(_MINIMISED)}
    figures: list[Figure] = []
    for measure in sorted(names):
        points = points_of_runs(study, measure).assign(x=lambda frame: frame["step"])
        points = points[points.groupby("run_key")["step"].transform("size") > 1]
        name = measure.partition("/")[2].replace("_", " ")
        figures += draw(
            _plots(study, measure, points, x=_ITERATIONS),
            name=f"distillation-{name.replace(' ', '-')}",
            title=f"{name.capitalize()} over iterations",
            caption=f"Recorded at evaluations from a single random draw per iteration, so values are noisy. {_THIN}"
            f"{study.drawn_note}",
            legend=marks.entries(study.styles, _named(study, points)["series"], lines=True),
        )
    return figures


_THIN = f"Thick lines: means over completed seeds; thin lines: single seeds; at most {series.MAX_POINTS} points per line."


def _over_time(study: Study, measure: str, points: pd.DataFrame) -> list[Figure]:
    found = speedups(study, measure)
    figures = draw(
        _plots(study, measure, points, x="distillation time (s)"),
        name="over-time",
        title=f"{formats.sentence_case(measure_title(measure))} over distillation time",
        caption=f"Distillation time excludes evaluations and depends on the machine and its load. {_THIN}{study.drawn_note}",
        legend=marks.entries(study.styles, _named(study, points)["series"], lines=True),
        table=speedup_table(found, measure) if found else None,
    )
    note = _TABLE_NOTE if found else ""
    return [replace(figure, table_title="Speed-up at equal accuracy", table_note=note) for figure in figures]


def speedup_table(found: Sequence[Speedup], measure: str) -> Table:
    """Returns one row per compared setting and accuracy target, after one row for the final accuracies."""
    baselines = list(dict.fromkeys(row.baseline for row in found))
    has_places = len({row.place for row in found}) > 1
    has_flops = any(row.flops_ratio[0] > 0 for row in found)
    name = baselines[0] if len(baselines) == 1 else "baseline"
    headers = ["data and model"] if has_places else []
    headers += ["setting", f"target {measure_title(measure)}", "reached by", f"time of {name}", "time", "speed-up"]
    headers += ["speed-up in FLOPs"] if has_flops else []
    rows = []
    for row in found:
        texts = [Value(text=row.place)] if has_places else []
        texts += [Value(text=row.rival if len(baselines) == 1 else f"{row.rival} versus {row.baseline}"), _level(row, name)]
        texts += [_reached_by(row), _time(row.baseline_s), _time(row.rival_s), _times(row.ratio, row)]
        texts += [_times(row.flops_ratio, row)] if has_flops else []
        rows.append(texts)
    return Table(headers=headers, num_labels=2 if has_places else 1, rows=rows, texts=(2 if has_places else 1,))


def _level(row: Speedup, name: str) -> Value:
    if row.share is None:
        mean, half = formats.estimate(*row.difference)
        apart = f"{float(mean):+.{len(mean.partition('.')[2])}f}" + (f" ± {half}" if half else "")
        return Value(text="final accuracy of each", remark=f"difference to {name}: {apart}")
    whose = f"final accuracy of {name}" if row.share == SHARES[0] else f"{row.share:.0%} of it"
    remark = ""
    if row.num_at_once:
        remark = f"{name} reached it at its first evaluation with {_seeds(row.num_at_once, row.num_pairs)}"
    return Value(text=f"{row.level:.4f}, {whose}", remark=remark)


def _reached_by(row: Speedup) -> Value:
    text = _seeds(row.num_reached, row.num_pairs)
    return Value(text=text, tone="" if row.num_reached == row.num_pairs else "bad")


def _seeds(num: int, num_pairs: int) -> str:
    return f"{num} of {formats.plural(num_pairs, 'seed')}"


def _time(seconds: Interval) -> Value:
    mean, low, high = seconds
    if np.isnan(mean):
        return Value(text="–")  # noqa: RUF001
    text, half = formats.estimate(mean, low, high)
    return Value(text=f"{text} s", half=half)


def _times(ratio: Interval, row: Speedup) -> Value:
    mean, low, high = ratio
    if row.num_reached < row.num_pairs:
        return Value(text="not reached by all seeds" if row.num_reached else "not reached", tone="bad")
    if np.isnan(mean):
        return Value(text="–")  # noqa: RUF001
    return Value(text=f"{mean:.3g}", remark="" if np.isnan(low) else f"{low:.3g} to {high:.3g}")


def _named(study: Study, points: pd.DataFrame) -> pd.DataFrame:
    """Returns the points of drawn cells with the columns `place, series, label` of their cells."""
    cells = study.cells[["cell", "series", "label"]].assign(place=places(study))
    return points.merge(cells[cells["cell"].isin(study.drawn["cell"])], on="cell")


def _plots(study: Study, measure: str, points: pd.DataFrame, *, x: str) -> list[Callable[[], Plot]]:
    """Returns one panel per place, as functions for `draw`. `points` have the columns `cell, seed, run_key, step, x, value`."""
    named = _named(study, points)

    def plot(place: str) -> Plot:
        group = named[named["place"] == place]
        own = group[group.groupby(["cell", "run_key"])["step"].transform(_is_kept)]
        chart, hover = _chart(own, measure=measure, styles=study.styles, x=x)
        return Plot(title=place, words=_words(own, measure, x, place), chart=chart, hover=hover)

    drawn = set(named["place"])
    return [partial(plot, place) for place in dict.fromkeys(places(study)) if place in drawn]


def _is_kept(steps: pd.Series[int]) -> pd.Series[bool]:
    """Returns a mask that keeps at most `series.MAX_POINTS` of a run's points, evenly spaced."""
    rows = np.unique(np.linspace(0, len(steps) - 1, series.MAX_POINTS).round().astype(int))
    return pd.Series(np.isin(np.arange(len(steps)), rows), index=steps.index)


def _means(points: pd.DataFrame) -> pd.DataFrame:
    """Returns means of `x` and `value` over seeds, at the iterations at which all runs of a cell were evaluated."""
    grouped = points.groupby(["cell", "series", "label", "step"], sort=False)
    means = grouped.agg(x=("x", "mean"), value=("value", "mean"), num=("value", "size")).reset_index()
    kept: pd.DataFrame = means[means["num"] == means.groupby("cell")["num"].transform("max")]
    return kept


def _words(points: pd.DataFrame, measure: str, x: str, place: str) -> str:
    ends = _means(points).groupby("label", sort=False).last()
    texts = [f"{label} {row.value:.4g} at {row.x:.3g}" for label, row in ends.iterrows()]
    at = f", {place}" if place else ""
    return f"{measure_title(measure)} versus {x}{at}; final values: {'; '.join(texts[:40])}"


def _chart(points: pd.DataFrame, *, measure: str, styles: marks.Styles, x: str) -> tuple[Chart, alt.Chart]:
    """Returns the chart and its layer of invisible points that show tooltips."""
    means = _means(points)
    scale, axis = _axis(points["x"])
    if x == _ITERATIONS:
        # Iterations are whole numbers.
        axis.tickMinStep = 1
    across = alt.X("x:Q", title=x, scale=scale, axis=axis)
    scale, axis = _axis(points["value"])
    # A minimised loss may span decades; an accuracy keeps to its possible values on a linear axis.
    if not measure.startswith("train/"):
        domain = marks.domain(measure, points.assign(mean=points["value"], low=points["value"], high=points["value"]))
        scale, axis = alt.Scale(domain=list(domain), nice=False), alt.Axis(format=marks.distinct_ticks(*domain), tickCount=5)
    up = alt.Y("value:Q", title=measure_title(measure), scale=scale, axis=axis)
    seeds = alt.Chart(marks.rows(points, _COLUMNS)).encode(x=across, y=up, color=marks.color(styles, "series"))
    # Joined in the order of steps; Vega-Lite would sort by x.
    thin = seeds.mark_line(strokeWidth=1, opacity=0.3).encode(detail="run_key:N", order="step:Q")
    average = alt.Chart(marks.rows(means, ["x", "value", "series", "label", "num", "step"])).encode(
        x=across, y=up, color=marks.color(styles, "series"), detail="label:N"
    )
    lines = average.mark_line(strokeWidth=2.2).encode(order="step:Q")
    symbols = average.mark_point(filled=True, size=45, opacity=1).encode(shape=marks.shape(styles, "series"))
    # Invisible and larger than the symbols, so that the pointer finds them; the static SVG goes without.
    hover = average.mark_point(size=90, opacity=0, filled=True).encode(
        tooltip=[
            alt.Tooltip("label:N", title="setting"),
            alt.Tooltip("step:Q", title="iteration"),
            alt.Tooltip("x:Q", title=x, format=".4~g"),
            alt.Tooltip("value:Q", title=measure_title(measure), format=".4~g"),
            alt.Tooltip("num:Q", title="seeds"),
        ]
    )
    return alt.layer(thin, lines, symbols).properties(height=300), hover


def _axis(values: pd.Series[float]) -> tuple[alt.Scale, alt.Axis]:
    """Returns a logarithmic scale if values span more than `_LOG_RATIO`, otherwise a linear one over their range."""
    least, most = float(values.min()), float(values.max())
    if least > 0 and most > _LOG_RATIO * least:
        ticks = marks.log_ticks(least, most)
        return alt.Scale(type="log", nice=False, padding=8), alt.Axis(format="~g", values=ticks)
    return alt.Scale(zero=False, nice=False, padding=8), alt.Axis(tickCount=5)
