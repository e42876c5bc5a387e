"""Helpers that all charts share: inline data, colours and symbols by name, tooltips, legends, axis ranges."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pruneyard.reports import glossary, palette
from pruneyard.reports.charts.figure import Entry
from pruneyard.reports.glossary import measure_title

Styles = Mapping[str, tuple[str, str]]
"""Colour and symbol by name."""

INTERVAL = "Error bars and bands: 95% t intervals over seeds (none for a single seed)."
DENSE_ENTRY = Entry(label="dense (reference)", color=palette.REFERENCE, symbol="dashes")
DASHES = [5, 4]


def rows(frame: pd.DataFrame, columns: Sequence[str]) -> alt.InlineData:
    """Returns inline data for a chart: NaN becomes null, numbers keep six significant digits.

    The values are a tuple because Altair deep-copies lists, row by row, on every chart method.
    """
    records: list[dict[Hashable, Any]] = frame[list(columns)].to_dict("records")
    return alt.InlineData(values=tuple({str(key): _plain(value) for key, value in row.items()} for row in records))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def color(styles: Styles, name: str) -> alt.Color:
    """Returns a colour encoding for the names in column `name`. It has no legend because the page draws one."""
    # The domain is that of all panels, so that a name has the same colour in each.
    scale = alt.Scale(domain=list(styles), range=[color for color, _ in styles.values()])
    return alt.Color(f"{name}:N", scale=scale, legend=None)


def shape(styles: Styles, name: str) -> alt.Shape:
    """Returns a symbol encoding for the names in column `name`."""
    scale = alt.Scale(domain=list(styles), range=[symbol for _, symbol in styles.values()])
    return alt.Shape(f"{name}:N", scale=scale, legend=None)


def entries(styles: Styles, names: Iterable[str], *, lines: bool = False) -> list[Entry]:
    """Returns the legend entries of the names that occur, in the order of the styles; an empty name needs no entry."""
    present = set(names)
    return [
        Entry(label=name, color=color, symbol="line" if lines else symbol)
        for name, (color, symbol) in styles.items()
        if name and name in present
    ]


def tooltip(name: str, measure: str) -> list[alt.Tooltip]:
    """Returns tooltips with the name in column `name` and the mean, interval and number of seeds of `measure`."""
    return [
        alt.Tooltip(f"{name}:N", title="setting"),
        alt.Tooltip("mean:Q", title=measure_title(measure), format=".4f"),
        alt.Tooltip("low:Q", title="95% lower", format=".4f"),
        alt.Tooltip("high:Q", title="95% upper", format=".4f"),
        alt.Tooltip("num:Q", title="seeds"),
    ]


def ramp(table: pd.DataFrame) -> Styles:
    """Returns a colour for each value of column `line`, from high to low density."""
    ordered = table.sort_values(["density", "ipc"], ascending=False)
    names = list(dict.fromkeys(ordered["line"]))
    return {name: (color, "circle") for name, color in zip(names, palette.ramp(len(names)), strict=True)}


def joined(*texts: object) -> str:
    """Returns the non-empty texts, separated by a middle dot."""
    return " · ".join(str(text) for text in texts if str(text))


def domain(measure: str, table: pd.DataFrame) -> tuple[float, float]:
    """Returns the axis range: all intervals with a margin of 5%, clipped to the possible values of the measure."""
    lowest, highest = glossary.bounds(measure)
    values = table[["mean", "low", "high"]].to_numpy(dtype="float64").ravel()
    values = values[np.isfinite(values)].clip(lowest, highest)
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    # The axis needs a height even for a single value, and for 0.
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.01
    return max(lowest, low - margin), min(highest, high + margin)


def distinct_ticks(low: float, high: float) -> str:
    """Returns a number format with which five ticks between `low` and `high` read differently, however close these are."""
    step = (high - low) / 10
    if step >= 1 and max(abs(low), abs(high)) >= 1e4:
        return "~s"
    return f",.{min(max(0, math.ceil(-math.log10(step))), 9)}~f" if step > 0 else "~g"


def log_ticks(low: float, high: float) -> list[float]:
    """Returns round tick values for a logarithmic axis: 1, 2, 5, 10, ... if at most six are in range, else powers of ten."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    inside = [tick for tick in fine if low * 0.8 <= tick <= high * 1.25]
    return inside if len(inside) <= 6 else [10.0**decade for decade in decades]

