"""Plots results of calibrate jobs: reliability before and after calibration, risk-coverage curves, prediction set sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import altair as alt
import numpy as np
import pandas as pd

from pruneyard.reports import formats, palette, series
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Entry, Figure, Plot, draw
from pruneyard.reports.charts.reliability import (
    BANDS,
    SMALL_BINS,
    band,
    error_note,
    excess,
    with_band,
    without_small_bins,
)
from pruneyard.reports.study import Study
from pruneyard.reports.trust.calibrated_cells import NEUTRAL, CalibratedCell
from pruneyard.reports.trust.calibrators import ComparedCalibrator, Comparison

MAX_PARENTS = 6
MAX_LINES = 8
NUM_OPEN = 2
"""Inputs whose reliability diagrams are not folded."""
_GRID = np.linspace(0.02, 1.0, 50)  # coverages at which curves of different lengths are interpolated
_HISTOGRAM_HEIGHT = 0.3  # in units of the accuracy axis, below 0, for the histogram of confidences
_Pair = tuple[Comparison, tuple[CalibratedCell | None, CalibratedCell | None]]
_UNIT = alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format="~g")


@dataclass(frozen=True, kw_only=True)
class _Diagram:
    """Names the curve that a reliability diagram draws and its figure, and holds the words for title, axes and reading."""

    curve: str
    figure: str
    title: str
    x: str
    y: str
    rule: str


_PREDICTED = _Diagram(
    curve=series.RELIABILITY,
    figure="trust-reliability",
    title="Reliability before and after calibration",
    x="confidence",
    y="accuracy",
    rule="points below it are over-confident. The histogram at the bottom shows the confidences",
)
_POSITIVE = _Diagram(
    curve=series.RELIABILITY_POSITIVE,
    figure="trust-positive",
    title="Reliability of the positive class before and after calibration",
    x="probability of the positive class",
    y="observed frequency",
    rule="below it the positive class is rarer than predicted. The histogram at the bottom shows the probabilities",
)


def before_and_after(study: Study, comparisons: Sequence[Comparison]) -> list[Figure]:
    """Returns reliability on test before calibration and after one calibrator, side by side, for at most `MAX_PARENTS` inputs.

    A second figure shows the same of the positive class, for inputs that have one.
    """
    pairs = [(each, (each.before, each.after)) for each in comparisons if each.before and each.after]
    bins = series.bins_of_runs(study.curves, study.labelled, name=_POSITIVE.curve)
    with_positive = set(bins["cell"])
    of_two = [pair for pair in pairs if any(cell is not None and cell.cell in with_positive for cell in pair[1])]
    return [
        *_both(study, pairs, study.test_bins, _PREDICTED),
        *_both(study, of_two, bins[bins["key"] == "test"], _POSITIVE),
    ]


def _both(study: Study, pairs: Sequence[_Pair], test_bins: pd.DataFrame, diagram: _Diagram) -> list[Figure]:
    """Returns one kind of diagram for both cells of each pair; test_bins: those of every run, of this diagram's curve."""
    shown = {cell.cell for _, cells in pairs[:MAX_PARENTS] for cell in cells if cell is not None}
    errors = series.calibration_errors(test_bins[test_bins["cell"].isin(shown)])
    before = excess(errors)
    plots = []
    # The inputs that need calibration most come first.
    for comparison, cells in sorted(pairs[:MAX_PARENTS], key=lambda pair: _excess_before(pair, before), reverse=True):
        for cell in cells:
            assert cell is not None, "pairs have both"
            own = _bins(study, cell, diagram.curve)
            if own.empty:
                continue
            title = marks.joined(
                comparison.parent, "not calibrated" if cell.calibrator == NEUTRAL else cell.calibrator
            )
            note = error_note(errors[errors["cell"] == cell.cell], num_bins=cell.num_bins)
            points = [f"{x:.2f} to {y:.2f}" for x, y in zip(own["x"], own["y"], strict=True)]
            words = f"{diagram.y.capitalize()} by mean {diagram.x}, {title}: {', '.join(points)}; {note}"
            color = palette.REFERENCE if cell.calibrator == NEUTRAL else palette.METHOD_COLORS[0]
            plots.append(partial(Plot, title=title, words=words, chart=_drawn(own, diagram, color=color), note=note))
    chosen = (
        "the calibrator with the lowest mean NLL on held-out samples that are not the test split"
        if all(each.is_ranked for each, _ in pairs)
        else "temperature scaling if present (a single seed, or no split to choose by, allows no ranking)"
    )
    more = (
        f" Only the first {MAX_PARENTS} of {len(pairs)} inputs are shown."
        if len(pairs) > MAX_PARENTS
        else ""
    )
    return draw(
        plots,
        name=diagram.figure,
        title=diagram.title,
        width="half",
        caption=f"Before calibration and after {chosen}. Points on the dashed diagonal are perfectly calibrated; "
        f"{diagram.rule}. Seeds are pooled, weighted by samples. {BANDS} {SMALL_BINS} The input whose ECE exceeds its noise "
        f"floor most comes first.{more}",
        num_open=2 * NUM_OPEN,
        folded_title=f"Diagrams of {formats.plural(len(plots) // 2 - NUM_OPEN, 'more input')}",
    )


def _excess_before(pair: _Pair, excesses: pd.Series[float]) -> float:
    """Returns ECE minus noise floor of the uncalibrated cell of a pair."""
    before = pair[1][0]
    return 0.0 if before is None else float(excesses.get(before.cell, 0.0))


def _bins(study: Study, cell: CalibratedCell, curve: str) -> pd.DataFrame:
    runs = study.labelled[study.labelled["cell"] == cell.cell]
    bins = series.reliability(study.curves, runs, num_bins=cell.num_bins, name=curve)
    bins = bins[bins["split"] == "test"]
    if bins.empty:
        return bins
    return with_band(bins, num_runs=len(cell.runs)).assign(
        left=bins["bin"] / cell.num_bins,
        right=(bins["bin"] + 1) / cell.num_bins,
        bottom=-_HISTOGRAM_HEIGHT,
        # The highest bar ends a little below 0, where the diagram begins.
        top=-_HISTOGRAM_HEIGHT + 0.85 * _HISTOGRAM_HEIGHT * bins["count"] / bins["count"].max(),
    )


def _drawn(bins: pd.DataFrame, diagram: _Diagram, *, color: str) -> Chart:
    base = alt.Chart(marks.rows(bins, ["x", "y", "low", "high", "count", "left", "right", "bottom", "top"]))
    across = alt.Scale(domain=[0, 1])
    # The accuracy axis is extended below 0 for the histogram; its ticks begin at 0.
    upwards = alt.Scale(domain=[-_HISTOGRAM_HEIGHT, 1], nice=False)
    x = alt.X("x:Q", title=diagram.x, scale=across, axis=_UNIT)

    def up(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", title=diagram.y, scale=upwards, axis=_UNIT)

    tooltip = [
        alt.Tooltip("x:Q", title=f"mean {diagram.x}", format=".3f"),
        alt.Tooltip("y:Q", title=diagram.y, format=".3f"),
        alt.Tooltip("low:Q", title="95% lower", format=".3f"),
        alt.Tooltip("high:Q", title="95% upper", format=".3f"),
        alt.Tooltip("count:Q", title="samples, all seeds", format=","),
    ]
    histogram = base.mark_rect(color=palette.REFERENCE, opacity=0.5).encode(
        x=alt.X("left:Q", title=diagram.x, scale=across, axis=_UNIT),
        x2="right:Q",
        y=up("top"),
        y2="bottom:Q",
        tooltip=tooltip,
    )
    ends = alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    diagonal = alt.Chart(ends).mark_line(color=palette.REFERENCE, strokeDash=marks.DASHES, strokeWidth=1.2)
    filled = without_small_bins(base)
    lines = filled.mark_line(color=color, strokeWidth=1.8).encode(x=x, y=up("y"))
    points = filled.mark_point(color=color, filled=True, size=36, opacity=1).encode(
        x=x, y=up("y"), tooltip=tooltip
    )
    parts = [histogram, diagonal.encode(x=x, y=up("y")), band(filled, x=x, low=up("low"), color=color), lines, points]
    return alt.layer(*parts).properties(height=280)


def risk_coverage(study: Study, comparisons: Sequence[Comparison]) -> list[Figure]:
    """Returns the error rate of the most confident fraction of the test split, one line per calibrator."""
    points = series.last_points(study.curves, "risk")
    points = points[points["key"] == "test"]
    names = list(dict.fromkeys(each.cell.calibrator for comparison in comparisons for each in comparison.calibrators))
    styles = palette.methods([name for name in names if name != NEUTRAL]) | {
        NEUTRAL: (palette.REFERENCE, "circle")
    }
    recorded = set(points["run_key"])
    with_curves = [
        comparison
        for comparison in comparisons
        if any(not recorded.isdisjoint(entry.cell.runs.index) for entry in comparison.calibrators[:MAX_LINES])
    ]
    plots, drawn = [], set()
    for comparison in with_curves[:MAX_PARENTS]:
        lines = _risks(comparison.calibrators[:MAX_LINES], points)
        drawn |= set(lines["calibrator"])
        words = _risk_words(comparison.parent, lines)
        plots.append(partial(Plot, title=comparison.parent, words=words, chart=_risk_chart(lines, styles)))
    more = (
        f" Only the first {MAX_PARENTS} of {len(with_curves)} inputs are shown."
        if len(with_curves) > MAX_PARENTS
        else ""
    )
    return draw(
        plots,
        name="trust-risk",
        title="Risk-coverage curves",
        caption="Risk: error rate when only the most confident fraction of the test samples (coverage) is classified, mean over "
        "seeds. A calibrator that preserves the order of confidences does not change this curve. The area under a curve is the "
        f"AURC of the table.{more}",
        legend=marks.entries(styles, drawn, lines=True),
    )


def _risks(calibrators: Sequence[ComparedCalibrator], points: pd.DataFrame) -> pd.DataFrame:
    """Returns mean risk over seeds at the coverages of `_GRID`: columns `x, y, calibrator`."""
    frames = []
    for entry in calibrators:
        cell = entry.cell
        curves = [
            np.interp(_GRID, own["x"], own["y"])
            # np.interp needs increasing x.
            for _, own in points[points["run_key"].isin(cell.runs.index)].sort_values("x").groupby("run_key")
        ]
        if curves:
            frames.append(
                pd.DataFrame({"x": _GRID, "y": np.mean(curves, axis=0), "calibrator": cell.calibrator})
            )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["x", "y", "calibrator"])


def _risk_words(parent: str, lines: pd.DataFrame) -> str:
    ends = lines[lines["x"] == _GRID[-1]]
    texts = [f"{name} {value:.4f}" for name, value in zip(ends["calibrator"], ends["y"], strict=True)]
    return f"Risk-coverage curve{f', {parent}' if parent else ''}; risk at full coverage: {', '.join(texts)}"


def _risk_chart(lines: pd.DataFrame, styles: marks.Styles) -> Chart:
    base = alt.Chart(marks.rows(lines, ["x", "y", "calibrator"]))
    x = alt.X("x:Q", title="coverage (fraction of samples classified)", scale=alt.Scale(domain=[0, 1]), axis=_UNIT)
    y = alt.Y("y:Q", title="risk (error rate)", axis=alt.Axis(format="~f", tickCount=5))
    tooltip = [
        alt.Tooltip("calibrator:N"),
        alt.Tooltip("x:Q", title="coverage", format=".2f"),
        alt.Tooltip("y:Q", title="risk", format=".4f"),
    ]
    drawn = base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=marks.color(styles, "calibrator"))
    # Invisible points show the tooltips.
    spots = base.mark_point(filled=True, size=60, opacity=0).encode(x=x, y=y, tooltip=tooltip)
    return alt.layer(drawn, spots).properties(height=240)


def set_sizes(study: Study, cells: Sequence[CalibratedCell]) -> list[Figure]:
    """Returns histograms of the sizes of conformal prediction sets, all seeds of a cell pooled."""
    points = series.last_points(study.curves, "set_size")
    rules = list(dict.fromkeys(rule for cell in cells for rule in cell.alphas))
    styles = {rule: (color, "square") for rule, (color, _) in palette.methods(rules).items()}
    calibrators = len({cell.calibrator for cell in cells if cell.alphas}) > 1
    recorded = set(points["run_key"])

    def plot(cell: CalibratedCell) -> Plot:
        own = points[points["run_key"].isin(cell.runs.index)]
        sizes = own.groupby(["key", "x"])["count"].sum().rename("count").reset_index()
        sizes["share"] = sizes["count"] / sizes.groupby("key")["count"].transform("sum")
        sizes["size"] = sizes["x"].astype(int)
        title = marks.joined(cell.parent, cell.calibrator if calibrators else "")
        texts = [
            f"{rule} {float((own_['size'] * own_['share']).sum()):.2f} classes on average"
            for rule, own_ in sizes.groupby("key")
        ]
        words = f"Prediction set sizes, {title}: {', '.join(texts)}"
        return Plot(title=title, words=words, chart=_size_chart(sizes, styles))

    return draw(
        [partial(plot, cell) for cell in cells if not recorded.isdisjoint(cell.runs.index)],
        name="trust-sizes",
        title="Prediction set sizes",
        caption="Fraction of the test samples by the number of classes in their prediction set, all seeds pooled.",
        legend=[Entry(label=rule, color=color, symbol=symbol) for rule, (color, symbol) in styles.items()],
    )


def _size_chart(sizes: pd.DataFrame, styles: marks.Styles) -> Chart:
    chart: alt.Chart = (
        alt.Chart(marks.rows(sizes.rename(columns={"key": "rule"}), ["rule", "size", "share", "count"]))
        .mark_bar()
        .encode(
            x=alt.X("size:O", title="classes in the prediction set", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("rule:N", sort=list(styles)),
            y=alt.Y("share:Q", title="fraction of samples", axis=alt.Axis(format="~f", tickCount=5)),
            color=marks.color(styles, "rule"),
            tooltip=[
                alt.Tooltip("rule:N"),
                alt.Tooltip("size:O", title="classes"),
                alt.Tooltip("share:Q", title="fraction of samples", format=".4f"),
                alt.Tooltip("count:Q", title="samples, all seeds", format=","),
            ],
        )
        .properties(height=220)
    )
    return chart
