"""Charts of what calibrate jobs found: reliability before and after, risk over coverage, set sizes."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from pruneyard.reports import palette, series
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Entry, Figure, Plot, draw
from pruneyard.reports.charts.reliability import BANDS, band, error_note, with_band
from pruneyard.reports.study import Study
from pruneyard.reports.trust.calibrators import Contest
from pruneyard.reports.trust.judged import NEUTRAL, Judged

MAX_PARENTS = 6
MAX_LINES = 8
_GRID = np.linspace(0.02, 1.0, 50)  # coverages that curves of different lengths are read at
_ROOM = 0.3  # of the axis of accuracy, below 0, for the histogram of confidences
_UNIT = alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format="~g")


def before_and_after(study: Study, contests: Sequence[Contest]) -> list[Figure]:
    """Reliability on test without calibration and with one calibrator, side by side, for a few kinds of earlier run."""
    pairs = [(each, (each.before, each.after)) for each in contests if each.before and each.after]
    errors = series.calibration_errors(study.test_bins)
    plots = []
    for contest, cells in pairs[:MAX_PARENTS]:
        for cell in cells:
            assert cell is not None, "pairs have both"
            own = _bins(study, cell)
            if own.empty:
                continue
            title = marks.joined(
                contest.parent, "not calibrated" if cell.calibrator == NEUTRAL else cell.calibrator
            )
            note = error_note(errors[errors["cell"] == cell.cell], num_bins=cell.num_bins)
            points = [f"{x:.2f} to {y:.2f}" for x, y in zip(own["x"], own["y"], strict=True)]
            words = f"Accuracy by mean confidence, {title}: {', '.join(points)}; {note}"
            color = palette.REFERENCE if cell.calibrator == NEUTRAL else palette.METHOD_COLORS[0]
            plots.append(Plot(title=title, words=words, chart=_diagram(own, color=color), note=note))
    chosen = (
        "the one of lowest mean nll"
        if all(each.is_ranked for each, _ in pairs)
        else "the usual one, as one seed ranks none"
    )
    more = (
        f" The first {MAX_PARENTS} of {len(pairs)} kinds of run are drawn."
        if len(pairs) > MAX_PARENTS
        else ""
    )
    return draw(
        plots,
        name="trust-reliability",
        title="Reliability before and after",
        width="half",
        caption=f"Before calibration, and after {chosen} of the table. Points on the dashed diagonal are calibrated, points "
        "below it over-confident; below them is the histogram of confidences. Points put all seeds together, weighted by "
        f"samples. {BANDS}{more}",
    )


def _bins(study: Study, cell: Judged) -> pd.DataFrame:
    runs = study.labelled[study.labelled["cell"] == cell.cell]
    bins = series.reliability(study.curves, runs, num_bins=cell.num_bins)
    bins = bins[bins["split"] == "test"]
    if bins.empty:
        return bins
    return with_band(bins, num_runs=len(cell.runs)).assign(
        left=bins["bin"] / cell.num_bins,
        right=(bins["bin"] + 1) / cell.num_bins,
        bottom=-_ROOM,
        top=-_ROOM + 0.85 * _ROOM * bins["count"] / bins["count"].max(),
    )


def _diagram(bins: pd.DataFrame, *, color: str) -> Chart:
    base = alt.Chart(marks.rows(bins, ["x", "y", "low", "high", "count", "left", "right", "bottom", "top"]))
    across = alt.Scale(domain=[0, 1])
    upwards = alt.Scale(domain=[-_ROOM, 1], nice=False)
    x = alt.X("x:Q", title="confidence", scale=across, axis=_UNIT)

    def up(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", title="accuracy", scale=upwards, axis=_UNIT)

    tooltip = [
        alt.Tooltip("x:Q", title="mean confidence", format=".3f"),
        alt.Tooltip("y:Q", title="accuracy", format=".3f"),
        alt.Tooltip("low:Q", title="95% from", format=".3f"),
        alt.Tooltip("high:Q", title="95% to", format=".3f"),
        alt.Tooltip("count:Q", title="samples, all seeds", format=","),
    ]
    histogram = base.mark_rect(color=palette.REFERENCE, opacity=0.5).encode(
        x=alt.X("left:Q", title="confidence", scale=across, axis=_UNIT),
        x2="right:Q",
        y=up("top"),
        y2="bottom:Q",
        tooltip=tooltip,
    )
    ends = alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    diagonal = alt.Chart(ends).mark_line(color=palette.REFERENCE, strokeDash=marks.DASHES, strokeWidth=1.2)
    lines = base.mark_line(color=color, strokeWidth=1.8).encode(x=x, y=up("y"))
    points = base.mark_point(color=color, filled=True, size=36, opacity=1).encode(
        x=x, y=up("y"), tooltip=tooltip
    )
    parts = [histogram, diagonal.encode(x=x, y=up("y")), band(base, x=x, low=up("low"), color=color), lines, points]
    return alt.layer(*parts).properties(height=280)


def risk_over_coverage(study: Study, contests: Sequence[Contest]) -> list[Figure]:
    """Share of errors among the most confident part of the test split, a line for each calibrator."""
    points = series.last_points(study.curves, "risk")
    points = points[points["key"] == "test"]
    names = list(dict.fromkeys(each.of.calibrator for contest in contests for each in contest.standings))
    styles = palette.methods([name for name in names if name != NEUTRAL]) | {
        NEUTRAL: (palette.REFERENCE, "circle")
    }
    plots, drawn = [], set()
    with_curves = [
        (contest, lines)
        for contest in contests
        if not (lines := _risks(contest.standings[:MAX_LINES], points)).empty
    ]
    for contest, lines in with_curves[:MAX_PARENTS]:
        drawn |= set(lines["calibrator"])
        plots.append(
            Plot(
                title=contest.parent,
                words=_risk_words(contest.parent, lines),
                chart=_risk_chart(lines, styles),
            )
        )
    more = (
        f" The first {MAX_PARENTS} of {len(with_curves)} kinds of run are drawn."
        if len(with_curves) > MAX_PARENTS
        else ""
    )
    return draw(
        plots,
        name="trust-risk",
        title="Risk over coverage",
        caption="Where only the most confident share of the test samples is answered: the share of errors among them, mean over "
        "seeds. A calibrator that keeps the order of confidences changes nothing here. The area under a line is aurc in the "
        f"table.{more}",
        legend=marks.entries(styles, drawn, lines=True),
    )


def _risks(standings: Sequence[object], points: pd.DataFrame) -> pd.DataFrame:
    frames = []
    for standing in standings:
        cell: Judged = standing.of  # type: ignore[attr-defined]
        curves = [
            np.interp(_GRID, own["x"], own["y"])
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
    return f"Risk over coverage{f', {parent}' if parent else ''}; at full coverage {', '.join(texts)}"


def _risk_chart(lines: pd.DataFrame, styles: marks.Styles) -> Chart:
    base = alt.Chart(marks.rows(lines, ["x", "y", "calibrator"]))
    x = alt.X("x:Q", title="coverage", scale=alt.Scale(domain=[0, 1]), axis=_UNIT)
    y = alt.Y("y:Q", title="risk", axis=alt.Axis(format="~g", tickCount=5))
    tooltip = [
        alt.Tooltip("calibrator:N"),
        alt.Tooltip("x:Q", title="coverage", format=".2f"),
        alt.Tooltip("y:Q", title="risk", format=".4f"),
    ]
    drawn = base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=marks.color(styles, "calibrator"))
    spots = base.mark_point(filled=True, size=60, opacity=0).encode(x=x, y=y, tooltip=tooltip)
    return alt.layer(drawn, spots).properties(height=240)


def set_sizes(study: Study, cells: Sequence[Judged]) -> list[Figure]:
    """How many classes the sets of conformal rules have, all seeds of a cell put together."""
    points = series.last_points(study.curves, "set_size")
    rules = list(dict.fromkeys(rule for cell in cells for rule in cell.alphas))
    styles = {rule: (color, "square") for rule, (color, _) in palette.methods(rules).items()}
    calibrators = len({cell.calibrator for cell in cells if cell.alphas}) > 1
    plots = []
    for cell in cells:
        own = points[points["run_key"].isin(cell.runs.index)]
        if own.empty:
            continue
        sizes = own.groupby(["key", "x"])["count"].sum().rename("count").reset_index()
        sizes["share"] = sizes["count"] / sizes.groupby("key")["count"].transform("sum")
        sizes["size"] = sizes["x"].astype(int)
        title = marks.joined(cell.parent, cell.calibrator if calibrators else "")
        texts = [
            f"{rule} {float((own_['size'] * own_['share']).sum()):.2f} classes on average"
            for rule, own_ in sizes.groupby("key")
        ]
        plots.append(
            Plot(
                title=title,
                words=f"Sizes of sets, {title}: {', '.join(texts)}",
                chart=_size_chart(sizes, styles),
            )
        )
    return draw(
        plots,
        name="trust-sizes",
        title="Sizes of sets",
        caption="Share of the test samples whose set has so many classes, all seeds put together.",
        legend=[Entry(label=rule, color=color, symbol=symbol) for rule, (color, symbol) in styles.items()],
    )


def _size_chart(sizes: pd.DataFrame, styles: marks.Styles) -> Chart:
    chart: alt.Chart = (
        alt.Chart(marks.rows(sizes.rename(columns={"key": "rule"}), ["rule", "size", "share", "count"]))
        .mark_bar()
        .encode(
            x=alt.X("size:O", title="classes in the set", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("rule:N", sort=list(styles)),
            y=alt.Y("share:Q", title="share of samples", axis=alt.Axis(format="~g", tickCount=5)),
            color=marks.color(styles, "rule"),
            tooltip=[
                alt.Tooltip("rule:N"),
                alt.Tooltip("size:O", title="classes"),
                alt.Tooltip("share:Q", format=".4f"),
                alt.Tooltip("count:Q", title="samples, all seeds", format=","),
            ],
        )
        .properties(height=220)
    )
    return chart
