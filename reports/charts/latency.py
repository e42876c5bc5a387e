"""Plots the measured speed-up of exported networks against density, next to the speed-up that their FLOPs predict."""

from __future__ import annotations

import json
from collections.abc import Hashable
from functools import partial

import altair as alt
import pandas as pd

from pruneyard.reports import formats, palette
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Chart, Entry, Figure, Plot, draw
from pruneyard.reports.latency import read_latency
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table, Value

MAX_ROWS = 500
_CONTROL = "dense"
_COLUMNS = ["density", "speedup", "low", "high", "format", "label", "predicted", "took", "dense"]
_THEORY = Entry(label="predicted from FLOPs", color=palette.REFERENCE, symbol="dashes")
_TITLE = "Measured latency"


def latency(study: Study) -> list[Figure]:
    """Returns the figure with its table; an empty list if nothing was measured."""
    rows = measured(study)
    if rows.empty:
        return []
    styles = palette.methods(sorted(set(rows["format"])))

    def plot(title: str, group: pd.DataFrame) -> Plot:
        return Plot(title=title, words=_words(title, group), chart=_chart(group, styles=styles))

    plots = []
    drawn = rows[rows["cell"].isin(study.drawn["cell"])]
    for (field, device, threads, batch_size), group in drawn.groupby(
        ["field", "device", "threads", "batch_size"], sort=False
    ):
        title = marks.joined(field, f"batch size {batch_size}", formats.plural(int(str(threads)), "thread"), device)
        plots.append(partial(plot, title, group))
    return draw(
        plots,
        name="latency",
        title=_TITLE,
        caption="Forward-pass time of the same network on dense kernels divided by that of the exported network, measured "
        "alternately in one process; bars span the 10th to 90th percentile. Below the line at 1 the exported network is slower. "
        "The dashed line is the ratio of counted FLOPs (theoretical, not measured). Format onnx runs dense kernels of another "
        "runtime; format dense is the control, which shows the measurement error."
        f"{study.drawn_note}",
        legend=[*marks.entries(styles, rows["format"]), _THEORY],
        table=latency_table(rows),
    )


def measured(study: Study) -> pd.DataFrame:
    """Returns the latency rows of the study's runs with `label, field` of their cells and the `predicted` speed-up from FLOPs."""
    frames = [frame for folder in study.folders if not (frame := read_latency(folder)).empty]
    if not frames:
        return pd.DataFrame()
    keys = ["run_key", "format", "batch_size", "threads", "device"]
    # Several folders may have measured the same network; the newest measurement counts.
    rows = pd.concat(frames).sort_values("measured_at", kind="stable").drop_duplicates(keys, keep="last")
    runs = study.labelled[["run_key", "seed", "cell"]].merge(
        study.cells[["cell", "label", "field"]], on="cell"
    )
    rows = runs.reset_index(names="place").merge(rows, on="run_key")
    rows["predicted"] = rows["dense_forward_flops"] / rows["forward_flops"]
    rows["low"], rows["high"] = rows["speedup_low"], rows["speedup_high"]
    rows["took"] = rows["median_s"].map(formats.brief)
    rows["dense"] = rows["dense_median_s"].map(formats.brief)
    ordered: pd.DataFrame = rows.sort_values(
        ["field", "threads", "batch_size", "place", "format"], kind="stable"
    )
    return ordered.reset_index(drop=True)


def latency_table(rows: pd.DataFrame) -> Table:
    """Returns one row per network, format, batch size and number of threads; at most `MAX_ROWS` rows."""
    headers = ["setting", "seed", "format", "batch size", "threads", "median latency", "10% to 90%", "dense latency", "speed-up"]
    headers += ["speed-up from FLOPs", "file size", "dense file size", "layers on dense kernels"]
    return Table(
        headers=headers,
        num_labels=3,
        rows=[[Value(text=text) for text in _texts(row)] for row in rows.head(MAX_ROWS).to_dict("records")],
        texts=(len(headers) - 1,),
    )


def _texts(row: dict[Hashable, object]) -> list[str]:
    span = f"{formats.brief(row['low_s'])} to {formats.brief(row['high_s'])}"  # type: ignore[arg-type]
    kernels = json.loads(str(row["kernels"]))
    left = [name.removesuffix(".weight") for name, kernel in kernels.items() if kernel.startswith(_CONTROL)]
    return [
        *(str(row[name]) for name in ("label", "seed", "format", "batch_size", "threads", "took")),
        span,
        str(row["dense"]),
        f"{row['speedup']:.2f}",
        f"{row['predicted']:.3g}",
        formats.amount(row["size_bytes"], "B"),  # type: ignore[arg-type]
        formats.amount(row["dense_size_bytes"], "B"),  # type: ignore[arg-type]
        "all" if len(left) == len(kernels) else formats.listed(left) or "none",
    ]


def _words(title: str, rows: pd.DataFrame) -> str:
    texts = [f"{row.format} at density {row.density:.3g}: {row.speedup:.2f}" for row in rows.itertuples()]
    return f"Measured speed-up versus density, {title}: {'; '.join(texts[:40])}"


def _chart(rows: pd.DataFrame, *, styles: marks.Styles) -> Chart:
    scale = alt.Scale(type="log", padding=24, nice=False)
    lowest, largest = float(rows["density"].min()), float(rows["density"].max())
    axis = alt.Axis(format="~g", values=marks.log_ticks(lowest, largest))
    base = alt.Chart(marks.rows(rows, _COLUMNS)).encode(
        x=alt.X("density:Q", title="density", scale=scale, axis=axis)
    )
    title = "speed-up over dense"
    # The line at 1 needs a tick, however far the values are from it.
    ticks = marks.log_ticks(min(0.5, float(rows["low"].min())), max(2.0, float(rows["predicted"].max())))
    up = alt.Y(
        "speedup:Q", title=title, scale=alt.Scale(type="log"), axis=alt.Axis(format="~g", values=ticks)
    )
    tooltip = [
        alt.Tooltip("label:N", title="setting"),
        alt.Tooltip("format:N"),
        alt.Tooltip("speedup:Q", title="measured speed-up", format=".2f"),
        alt.Tooltip("predicted:Q", title="speed-up from FLOPs", format=".3g"),
        alt.Tooltip("took:N", title="median latency"),
        alt.Tooltip("dense:N", title="dense latency"),
    ]
    even = (
        alt.Chart(alt.InlineData(values=[{"speedup": 1}]))
        .mark_rule(strokeWidth=1.5, opacity=0.7)
        .encode(y=up)
    )
    # Means over the networks of one density, so that a line has one point there.
    theory = base.mark_line(color=palette.REFERENCE, strokeDash=marks.DASHES).encode(
        y=alt.Y("mean(predicted):Q", title=title)
    )
    lines = base.mark_line(strokeWidth=1.5, opacity=0.55).encode(
        y=alt.Y("mean(speedup):Q", title=title), color=marks.color(styles, "format")
    )
    bars = base.mark_rule(strokeWidth=1.5).encode(
        y=alt.Y("low:Q", title=title), y2="high:Q", color=marks.color(styles, "format")
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        y=up, color=marks.color(styles, "format"), shape=marks.shape(styles, "format"), tooltip=tooltip
    )
    return alt.layer(even, theory, lines, bars, points).properties(height=300)
