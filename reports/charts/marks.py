"""What the charts have in common: rows, colours and shapes by name, tooltips, the dense reference."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pruneyard.reports import glossary, palette
from pruneyard.reports.charts.figure import Entry

Styles = Mapping[str, tuple[str, str]]
"""Colour and symbol by name."""

INTERVAL = "Bars and bands are 95% t intervals over seeds; one seed has none."
DENSE_ENTRY = Entry(label="dense, for reference", color=palette.REFERENCE, symbol="dashes")
DASHES = [5, 4]


def rows(frame: pd.DataFrame, columns: Sequence[str]) -> alt.InlineData:
    """Rows for a chart: NaN becomes null, numbers keep six significant digits.

    In a tuple, since Altair copies lists, row by row, whenever a chart is built on.
    """
    records: list[dict[Hashable, Any]] = frame[list(columns)].to_dict("records")
    return alt.InlineData(values=tuple({str(key): _plain(value) for key, value in row.items()} for row in records))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def color(styles: Styles, name: str) -> alt.Color:
    """Colour by the names in column `name`; the legend is drawn by the page."""
    scale = alt.Scale(domain=list(styles), range=[color for color, _ in styles.values()])
    return alt.Color(f"{name}:N", scale=scale, legend=None)


def shape(styles: Styles, name: str) -> alt.Shape:
    """Symbol by the names in column `name`."""
    scale = alt.Scale(domain=list(styles), range=[symbol for _, symbol in styles.values()])
    return alt.Shape(f"{name}:N", scale=scale, legend=None)


def entries(styles: Styles, names: Iterable[str], *, lines: bool = False) -> list[Entry]:
    """The legend of the names that occur, in the order of the styles."""
    present = set(names)
    return [
        Entry(label=name, color=color, symbol="line" if lines else symbol)
        for name, (color, symbol) in styles.items()
        if name in present
    ]


def tooltip(name: str, measure: str) -> list[alt.Tooltip]:
    """Mean and interval of `measure` under the name in column `name`."""
    return [
        alt.Tooltip(f"{name}:N", title="cell"),
        alt.Tooltip("mean:Q", title=words(measure), format=".4f"),
        alt.Tooltip("low:Q", title="95% from", format=".4f"),
        alt.Tooltip("high:Q", title="95% to", format=".4f"),
        alt.Tooltip("num:Q", title="seeds"),
    ]


def ramp(table: pd.DataFrame) -> Styles:
    """A colour per value of column `line`, from large densities to small."""
    ordered = table.sort_values(["density", "ipc"], ascending=False)
    names = list(dict.fromkeys(ordered["line"]))
    return {name: (color, "circle") for name, color in zip(names, palette.ramp(len(names)), strict=True)}


def joined(*texts: object) -> str:
    """The texts that are not empty, side by side."""
    return " · ".join(str(text) for text in texts if str(text))


def domain(measure: str, table: pd.DataFrame) -> tuple[float, float]:
    """From the lowest to the highest end of an interval with a margin, but only what the measure can be."""
    lowest, highest = glossary.bounds(measure)
    values = table[["mean", "low", "high"]].to_numpy(dtype="float64").ravel()
    values = values[np.isfinite(values)].clip(lowest, highest)
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.01
    return max(lowest, low - margin), min(highest, high + margin)


def log_ticks(low: float, high: float) -> list[float]:
    """Round values on a logarithmic axis, no more than about six: 1, 2, 5, 10, ... or powers of ten."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    inside = [tick for tick in fine if low * 0.8 <= tick <= high * 1.25]
    return inside if len(inside) <= 6 else [10.0**decade for decade in decades]


def words(measure: str) -> str:
    """`test/accuracy` as people say it."""
    return measure.replace("/", " ")
