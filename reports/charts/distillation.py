"""How distillation goes on: accuracy over the time it takes, with the speed-up at equal accuracy, and what is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import altair as alt
import numpy as np
import pandas as pd

from pruneyard.reports import formats, series
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Figure, Plot, draw
from pruneyard.reports.speedup import SHARES, Interval, Speedup, places, points_of_runs, speedups
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table, Value

_MEASURES = ("test/accuracy", "val/accuracy")
_MINIMISED = ("_loss", "_error", "_gap")
_COLUMNS = ["x", "value", "series", "label", "run_key", "seed", "step"]
_ITERATIONS = "iterations"
_WIDE = 20  # times as much from the least to the most: then an axis is logarithmic
_TABLE_NOTE = (
    "Runs are paired by seed, and the level is that of each pair's own baseline. It counts as reached at the first evaluation "
    "there, which comes later than the fact by up to the interval between two evaluations. Times as fast: geometric mean over "
    "seeds with its 95% interval; nothing is averaged where a seed did not reach the level. Preparation inside a run (pools of "
    "networks, experts) is part of its time."
)


def over_time(study: Study) -> list[Figure]:
    """The measure that was evaluated repeatedly against the time of distillation; none where no run was."""
    for measure in _MEASURES:
        points = points_of_runs(study, measure)
        points = points[points.groupby("run_key")["step"].transform("size") > 1].rename(columns={"wall_s": "x"})
        if len(points):
            return _over_time(study, measure, points)
    return []


def minimised(study: Study) -> list[Figure]:
    """What distillation makes smaller, over its iterations: one figure for each number that runs reported."""
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
            caption=f"As evaluations found it, on one draw each: of every iteration a single value. {_THIN}",
            legend=marks.entries(study.styles, _named(study, points)["series"], lines=True),
        )
    return figures


_THIN = f"Thick lines are means over completed seeds, thin ones single seeds; at most {series.MAX_POINTS} points per line."


def _over_time(study: Study, measure: str, points: pd.DataFrame) -> list[Figure]:
    found = speedups(study, measure)
    figures = draw(
        _plots(study, measure, points, x="distillation time in s"),
        name="over-time",
        title=f"{marks.words(measure).capitalize()} over time",
        caption=f"Seconds of distillation, evaluations excluded, on the machine and under the load of the day. {_THIN}",
        legend=marks.entries(study.styles, _named(study, points)["series"], lines=True),
        table=speedup_table(found, measure) if found else None,
    )
    note = _TABLE_NOTE if found else ""
    return [replace(figure, table_title="Speed-up at equal accuracy", table_note=note) for figure in figures]


def speedup_table(found: Sequence[Speedup], measure: str) -> Table:
    """One row per rival and level, after one for the ends."""
    baselines = list(dict.fromkeys(row.baseline for row in found))
    has_places = len({row.place for row in found}) > 1
    has_flops = any(row.flops_ratio[0] > 0 for row in found)
    name = baselines[0] if len(baselines) == 1 else "baseline"
    headers = ["on"] if has_places else []
    headers += ["setting", f"until {marks.words(measure)} is", "reached by", f"time of {name}", "own time", "times as fast"]
    headers += ["by counted FLOPs"] if has_flops else []
    rows = []
    for row in found:
        texts = [Value(text=row.place)] if has_places else []
        texts += [Value(text=row.rival if len(baselines) == 1 else f"{row.rival}, to {row.baseline}"), _level(row, name)]
        texts += [_reached_by(row), _time(row.baseline_s), _time(row.rival_s), _times(row.ratio, row)]
        texts += [_times(row.flops_ratio, row)] if has_flops else []
        rows.append(texts)
    return Table(headers=headers, num_labels=2 if has_places else 1, rows=rows, texts=(2 if has_places else 1,))


def _level(row: Speedup, name: str) -> Value:
    if row.share is None:
        mean, half = formats.estimate(*row.difference)
        apart = f"{float(mean):+.{len(mean.partition('.')[2])}f}" + (f" ± {half}" if half else "")
        return Value(text="its own end", remark=f"there {apart} against {name}")
    whose = f"what {name} ends with" if row.share == SHARES[0] else f"{row.share:.0%} of that"
    remark = ""
    if row.num_at_once:
        remark = f"{name} was there at its first evaluation with {_seeds(row.num_at_once, row.num_pairs)}"
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
        return Value(text="not reached by all" if row.num_reached else "not reached", tone="bad")
    if np.isnan(mean):
        return Value(text="–")  # noqa: RUF001
    return Value(text=f"{mean:.3g}", remark="" if np.isnan(low) else f"{low:.3g} to {high:.3g}")


def _named(study: Study, points: pd.DataFrame) -> pd.DataFrame:
    """With `place, series, label` of the cells."""
    cells = study.cells[["cell", "series", "label"]].assign(place=places(study))
    return points.merge(cells, on="cell")


def _plots(study: Study, measure: str, points: pd.DataFrame, *, x: str) -> list[Plot]:
    """A panel for each place. `points` have the columns `cell, seed, run_key, step, x, value`."""
    named = _named(study, points)
    plots = []
    for place in dict.fromkeys(places(study)):
        group = named[named["place"] == place]
        if group.empty:
            continue
        own = group[group.groupby(["cell", "run_key"])["step"].transform(_is_kept)]
        chart, hover = _chart(own, measure=measure, styles=study.styles, x=x)
        plots.append(Plot(title=place, words=_words(own, measure, x, place), chart=chart, hover=hover))
    return plots


def _is_kept(steps: pd.Series[int]) -> pd.Series[bool]:
    """At most `series.MAX_POINTS` of a run's points, evenly spread."""
    rows = np.unique(np.linspace(0, len(steps) - 1, series.MAX_POINTS).round().astype(int))
    return pd.Series(np.isin(np.arange(len(steps)), rows), index=steps.index)


def _means(points: pd.DataFrame) -> pd.DataFrame:
    """Over seeds, at iterations that all of a cell's runs were evaluated after: of `x` and of `value`."""
    grouped = points.groupby(["cell", "series", "label", "step"], sort=False)
    means = grouped.agg(x=("x", "mean"), value=("value", "mean"), num=("value", "size")).reset_index()
    kept: pd.DataFrame = means[means["num"] == means.groupby("cell")["num"].transform("max")]
    return kept


def _words(points: pd.DataFrame, measure: str, x: str, place: str) -> str:
    ends = _means(points).groupby("label", sort=False).last()
    texts = [f"{label} {row.value:.4g} at {row.x:.3g}" for label, row in ends.iterrows()]
    at = f", {place}" if place else ""
    return f"{marks.words(measure)} against {x}{at}; at the end: {'; '.join(texts[:40])}"


def _chart(points: pd.DataFrame, *, measure: str, styles: marks.Styles, x: str) -> tuple[Chart, alt.Chart]:
    """The chart, and the invisible points that answer the pointer."""
    means = _means(points)
    scale, axis = _axis(points["x"])
    if x == _ITERATIONS:
        axis.tickMinStep = 1
    across = alt.X("x:Q", title=x, scale=scale, axis=axis)
    scale, axis = _axis(points["value"])
    if not measure.startswith("train/"):
        domain = marks.domain(measure, points.assign(mean=points["value"], low=points["value"], high=points["value"]))
        scale, axis = alt.Scale(domain=list(domain), nice=False), alt.Axis(format="~g", tickCount=5)
    up = alt.Y("value:Q", title=marks.words(measure), scale=scale, axis=axis)
    seeds = alt.Chart(marks.rows(points, _COLUMNS)).encode(x=across, y=up, color=marks.color(styles, "series"))
    thin = seeds.mark_line(strokeWidth=1, opacity=0.3).encode(detail="run_key:N", order="step:Q")
    average = alt.Chart(marks.rows(means, ["x", "value", "series", "label", "num", "step"])).encode(
        x=across, y=up, color=marks.color(styles, "series"), detail="label:N"
    )
    lines = average.mark_line(strokeWidth=2.2).encode(order="step:Q")
    symbols = average.mark_point(filled=True, size=45, opacity=1).encode(shape=marks.shape(styles, "series"))
    hover = average.mark_point(size=90, opacity=0, filled=True).encode(
        tooltip=[
            alt.Tooltip("label:N", title="cell"),
            alt.Tooltip("step:Q", title="iteration"),
            alt.Tooltip("x:Q", title=x, format=".4~g"),
            alt.Tooltip("value:Q", title=marks.words(measure), format=".4~g"),
            alt.Tooltip("num:Q", title="seeds"),
        ]
    )
    return alt.layer(thin, lines, symbols).properties(height=300), hover


def _axis(values: pd.Series[float]) -> tuple[alt.Scale, alt.Axis]:
    """Logarithmic where values are far apart, and else from the least to the most."""
    least, most = float(values.min()), float(values.max())
    if least > 0 and most > _WIDE * least:
        ticks = marks.log_ticks(least, most)
        return alt.Scale(type="log", nice=False, padding=8), alt.Axis(format="~g", values=ticks)
    return alt.Scale(zero=False, nice=False, padding=8), alt.Axis(tickCount=5)
