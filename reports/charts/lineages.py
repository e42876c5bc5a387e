"""Plots the hyperparameter schedules of population-based training, and tabulates the schedule of the best lineage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import altair as alt
import pandas as pd

from pruneyard.reports import formats, palette
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Entry, Figure, Plot, draw
from pruneyard.reports.glossary import measure_title
from pruneyard.reports.lineage import Lineages, Part, lineages
from pruneyard.reports.statistics.intervals import estimate
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table, Value

_LOG_RATIO = 20  # an axis is logarithmic if its largest value is more than this many times its smallest
MAX_LINES = 60
BEST, OTHERS = "best", "other finished trainings"
_STYLES = {BEST: (palette.methods([BEST])[BEST][0], "circle"), OTHERS: (palette.REFERENCE, "circle")}


def settings_over_time(study: Study) -> list[Figure]:
    """Returns one figure per stage with segmented trainings: every numeric hyperparameter over the fraction of steps."""
    figures = []
    for found in lineages(study):
        where = f" of stage {found.stage}" if found.stage else ""
        by = f"{measure_title(found.measure)} ({'highest' if found.best_is == 'max' else 'lowest'} is best)"
        lines = found.lines[:MAX_LINES]
        more = f" Only the best {MAX_LINES} of {len(found.lines):,} are drawn." if len(found.lines) > MAX_LINES else ""
        points = {name: found_points for name in found.names if (found_points := _points(lines, name))}
        drawn = draw(
            [partial(_plot, study, found, name, own) for name, own in points.items()],
            name=f"settings-{found.stage or 'over-time'}",
            title=f"Hyperparameter schedules{where}",
            caption=(
                f"Each line is a finished training with the hyperparameters of its segments. The best one is chosen by "
                f"mean {by} over seeds. Lines that coincide at the start share their first segments.{more}"
            ),
            legend=[Entry(label=name, color=color) for name, (color, _) in _STYLES.items()],
            table=_table(study, found),
        )
        figures += [
            replace(
                figure, table_title="Schedule of the best training", table_note=f"Chosen by {by}; never by a test metric."
            )
            for figure in drawn
        ]
    return figures


def _points(lines: Sequence[Sequence[Part]], name: str) -> list[dict[str, Any]]:
    """Returns the ends of every segment's line of one hyperparameter; none if it is not numeric."""
    return [
        {
            "line": number,
            "who": OTHERS if number else BEST,
            "share": share,
            "value": float(part.settings[name]),
        }
        for number, line in reversed(list(enumerate(lines)))  # the best one is drawn on top
        # Not strict: the end of the last segment begins no further one.
        for begin, part in zip((0.0, *(before.until for before in line)), line, strict=False)
        # A bool is an int, too.
        if isinstance(part.settings[name], int | float) and not isinstance(part.settings[name], bool)
        for share in (begin, part.until)
    ]


def _plot(study: Study, found: Lineages, name: str, points: Sequence[dict[str, Any]]) -> Plot:
    """Returns the plot of one hyperparameter from `_points`."""
    table = pd.DataFrame(points)
    least, most = table["value"].min(), table["value"].max()
    is_log = least > 0 and most > _LOG_RATIO * least
    scale = alt.Scale(type="log", nice=False, padding=8) if is_log else alt.Scale(zero=False, padding=8)
    axis = (
        alt.Axis(format="~g", values=marks.log_ticks(least, most))
        if is_log
        else alt.Axis(format=marks.distinct_ticks(float(least), float(most)), tickCount=5)
    )
    shown = study.names.get(name, name)
    chart = (
        alt.Chart(marks.rows(table, ["line", "who", "share", "value"]))
        .mark_line()
        .encode(
            x=alt.X(
                "share:Q",
                title="fraction of training steps",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="~g"),
            ),
            y=alt.Y("value:Q", title=shown, scale=scale, axis=axis),
            color=marks.color(_STYLES, "who"),
            detail="line:N",
            opacity=alt.condition(f"datum.who == '{BEST}'", alt.value(1.0), alt.value(0.45)),
            strokeWidth=alt.condition(f"datum.who == '{BEST}'", alt.value(2.6), alt.value(1.2)),
        )
        .properties(height=240)
    )
    values = ", ".join(f"{part.settings[name]:.4g} up to {part.until:.2g}" for part in found.lines[0])
    return Plot(title=shown, words=f"{shown} of the best training: {values}", chart=chart)


def _table(study: Study, found: Lineages) -> Table:
    headers = [
        "until fraction of steps",
        *(study.names.get(name, name) for name in found.names),
        measure_title(found.measure),
        "hyperparameters",
    ]
    rows = [
        [
            Value(text=f"{part.until:.2g}"),
            *(Value(text=_text(part.settings[name])) for name in found.names),
            _mean(part),
            Value(text="changed" if part.changed else "unchanged" if place else "initial"),
        ]
        for place, part in enumerate(found.lines[0])
    ]
    return Table(headers=headers, num_labels=1, rows=rows, texts=(len(headers) - 1,))


def _text(value: object) -> str:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _mean(part: Part) -> Value:
    found = estimate(part.values)
    text, half = formats.estimate(float(found.mean), float(found.low), float(found.high))
    return Value(text=text, half=half)
