"""Plots histograms of OOD scores of in-distribution and OOD inputs, one panel per distinct score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import altair as alt
import numpy as np
import pandas as pd

from pruneyard.reports import formats, palette, series
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import MAX_PANELS, Chart, Figure, Plot, draw
from pruneyard.reports.study import Study
from pruneyard.reports.trust.calibrated_cells import NEUTRAL, CalibratedCell
from pruneyard.reports.trust.detection import (
    ANY,
    CONFIDENCE,
    Detection,
    detections,
    set_name,
    split_and_score,
)

NUM_OPEN = 6
"""Panels that are shown; the others are folded."""
_IN_DISTRIBUTION = "in-distribution (test split)"


def score_distributions(study: Study, cells: Sequence[CalibratedCell]) -> list[Figure]:
    """Returns the figure with one panel per detection, from its run with the smallest seed; an empty list without scores."""
    points = series.last_points(study.curves, "score")
    # An empty list has no two columns to assign.
    points[["split", "score"]] = [split_and_score(key) for key in points["key"]] or np.zeros((0, 2))
    of_runs = dict(iter(points.groupby(["run_key", "score"], sort=False)))
    found = [
        (detection, run)
        for detection in detections(study, cells)
        if (run := _first_run(detection), detection.score) in of_runs
    ]
    splits = dict.fromkeys(split for detection, run in found for split in of_runs[run, detection.score]["split"].unique())
    set_names = {split: _IN_DISTRIBUTION if split == "test" else set_name(cells, split) for split in splits}
    names = [name for name in dict.fromkeys(set_names.values()) if name != _IN_DISTRIBUTION]
    names.sort(key=lambda name: not name.startswith("near: "))
    styles = {name: (color, "line") for name, (color, _) in palette.methods(names).items()}

    def plot(detection: Detection, run: str) -> Plot:
        cell = detection.cells[0]
        calibrator = "" if detection.calibrator in (ANY, NEUTRAL) and detection.score != CONFIDENCE else detection.calibrator
        title = marks.joined(cell.parent, calibrator, detection.score)
        steps = _steps(of_runs[run, detection.score], set_names)
        note = f"seed {cell.runs['seed'].astype(str)[run]}"
        return Plot(title=title, words=_words(title, steps), chart=_chart(steps, styles), note=note)

    return draw(
        [partial(plot, detection, run) for detection, run in found],
        name="trust-scores",
        title="Score distributions of in-distribution and OOD inputs",
        caption="Fraction of each set's inputs per score bin, for the run with the smallest seed; a higher score means "
        "in-distribution. Scores beyond the 0.1% and 99.9% quantiles of all inputs are in the outermost bins. Confidence is the "
        "logarithm of the largest probability after calibration.",
        legend=[
            *marks.entries({_IN_DISTRIBUTION: (palette.REFERENCE, "square")}, [_IN_DISTRIBUTION]),
            *marks.entries(styles, styles, lines=True),
        ],
        width="third",
        num_open=NUM_OPEN,
        folded_title=f"Distributions of {formats.plural(min(len(found), MAX_PANELS) - NUM_OPEN, 'more score')}",
    )


def _first_run(detection: Detection) -> str:
    """Returns the run with the smallest seed."""
    return str(detection.cells[0].runs.sort_values("seed", kind="stable").index[0])


def _steps(points: pd.DataFrame, set_names: Mapping[str, str]) -> pd.DataFrame:
    """Returns every set's histogram over all bins: columns `x` (left edge), `middle, y, set`; a final row has y = 0."""
    middles = np.unique(points["x"])
    # Bins without inputs are not recorded, so neighbours may be several widths apart.
    width = float(np.diff(middles).min()) if len(middles) > 1 else 1.0
    num = round((middles[-1] - middles[0]) / width) + 1
    edges = middles[0] + width * (np.arange(num + 1) - 0.5)
    frames = []
    for split, own in points.groupby("split", sort=False):
        # One more than the bins: the step of the last one needs an end.
        shares = np.zeros(num + 1)
        shares[((own["x"] - middles[0]) / width).round().astype(int)] = own["y"]
        frames.append(pd.DataFrame({"x": edges, "middle": edges + width / 2, "y": shares, "set": set_names[str(split)]}))
    return pd.concat(frames, ignore_index=True)


def _words(title: str, steps: pd.DataFrame) -> str:
    texts = [
        f"{name} {float((own['middle'] * own['y']).sum() / own['y'].sum()):.3g} on average"
        for name, own in steps.groupby("set")
    ]
    return f"Histogram of scores, {title}: {', '.join(texts)}"


def _chart(steps: pd.DataFrame, styles: marks.Styles) -> Chart:
    """Returns in-distribution inputs as an area behind the lines of the OOD sets, so that overlapping sets stay readable."""
    axis = alt.Axis(format=marks.distinct_ticks(float(steps["x"].min()), float(steps["x"].max())), tickCount=5)
    x = alt.X("x:Q", title="score", scale=alt.Scale(zero=False, nice=False), axis=axis)
    # Vega-Lite stacks areas unless told otherwise.
    y = alt.Y("y:Q", title="fraction of inputs", stack=None, axis=alt.Axis(format="~f", tickCount=4))
    in_distribution, ood = (alt.Chart(marks.rows(steps[part], ["x", "y", "set"])) for part in _parts(steps))
    area = in_distribution.mark_area(interpolate="step-after", color=palette.REFERENCE, opacity=0.35, line=False)
    lines = ood.mark_line(interpolate="step-after", strokeWidth=1.4)
    drawn = lines.encode(x=x, y=y, color=marks.color(styles, "set"), tooltip=[alt.Tooltip("set:N")])
    return alt.layer(area.encode(x=x, y=y), drawn).properties(height=200)


def _parts(steps: pd.DataFrame) -> tuple[pd.Series[bool], pd.Series[bool]]:
    is_in_distribution = steps["set"] == _IN_DISTRIBUTION
    return is_in_distribution, ~is_in_distribution
