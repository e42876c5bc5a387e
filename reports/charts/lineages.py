"""How settings changed in the trainings of a population, and what the best one's schedule is."""

from __future__ import annotations

import math
from dataclasses import replace

import altair as alt
import pandas as pd

from pruneyard.reports import formats, palette
from pruneyard.reports.charts import marks
from pruneyard.reports.charts.figure import Entry, Figure, Plot, draw
from pruneyard.reports.lineage import Lineages, Part, lineages
from pruneyard.reports.statistics import estimate
from pruneyard.reports.study import Study
from pruneyard.reports.tables import Table, Value

_WIDE = 20  # times as much from the least to the most: then an axis is logarithmic
BEST, OTHERS = "the best", "the others that came to the end"
_STYLES = {BEST: (palette.methods([BEST])[BEST][0], "circle"), OTHERS: (palette.REFERENCE, "circle")}


def settings_over_time(study: Study) -> list[Figure]:
    """For each stage whose trainings were done in parts: every setting that is a number over the share of the steps."""
    figures = []
    for found in lineages(study):
        where = f" of stage {found.stage}" if found.stage else ""
        by = f"{marks.words(found.measure)} ({'largest' if found.best_is == 'max' else 'smallest'} is best)"
        drawn = draw(
            [plot for name in found.names if (plot := _plot(study, found, name)) is not None],
            name=f"settings-{found.stage or 'over-time'}",
            title=f"Settings over a training{where}",
            caption=(
                f"Each line is a training that came to the end, with the settings of its parts; the best by {by}, over seeds. "
                "Lines that run together have the same first parts."
            ),
            legend=[Entry(label=name, color=color) for name, (color, _) in _STYLES.items()],
            table=_table(study, found),
        )
        figures += [
            replace(
                figure, table_title="The schedule of the best", table_note=f"Chosen by {by}; never by test."
            )
            for figure in drawn
        ]
    return figures


def _plot(study: Study, found: Lineages, name: str) -> Plot | None:
    """None for a setting that is no number."""
    points = [
        {
            "line": number,
            "who": OTHERS if number else BEST,
            "share": share,
            "value": float(part.settings[name]),
        }
        for number, line in reversed(list(enumerate(found.lines)))  # the best one is drawn on top
        for begin, part in zip((0.0, *(before.until for before in line)), line, strict=False)
        if isinstance(part.settings[name], int | float) and not isinstance(part.settings[name], bool)
        for share in (begin, part.until)
    ]
    if not points:
        return None
    table = pd.DataFrame(points)
    least, most = table["value"].min(), table["value"].max()
    is_wide = least > 0 and most > _WIDE * least
    scale = alt.Scale(type="log", nice=False, padding=8) if is_wide else alt.Scale(zero=False, padding=8)
    axis = (
        alt.Axis(format="~g", values=marks.log_ticks(least, most))
        if is_wide
        else alt.Axis(format="~g", tickCount=5)
    )
    shown = study.names.get(name, name)
    chart = (
        alt.Chart(marks.rows(table, ["line", "who", "share", "value"]))
        .mark_line()
        .encode(
            x=alt.X(
                "share:Q",
                title="share of the steps",
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
    told = ", ".join(f"{part.settings[name]:.4g} up to {part.until:.2g}" for part in found.lines[0])
    return Plot(title=shown, words=f"{shown} of the best training: {told}", chart=chart)


def _table(study: Study, found: Lineages) -> Table:
    headers = [
        "until share",
        *(study.names.get(name, name) for name in found.names),
        marks.words(found.measure),
        "settings",
    ]
    rows = [
        [
            Value(text=f"{part.until:.2g}"),
            *(Value(text=_text(part.settings[name])) for name in found.names),
            _mean(part),
            Value(text="changed" if part.changed else "go on" if place else "begin"),
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
