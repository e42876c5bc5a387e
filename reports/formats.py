"""Formats numbers for people, with as many digits as their interval supports."""

import math
from collections.abc import Sequence

_MISSING = "n/a"
_SI = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_SHORT = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


def number(value: float | None, *, digits: int = 4) -> str:
    """Returns a number with `digits` significant digits, without trailing zeros."""
    if value is None or math.isnan(value):
        return _MISSING
    return f"{value:.{digits}g}"


def estimate(mean: float, low: float, high: float) -> tuple[str, str]:
    """Returns a mean and its half width: the width with two significant digits, the mean with the same number of decimals.

    The half width is empty without an interval (one seed).
    """
    if math.isnan(mean):
        return _MISSING, ""
    half = (high - low) / 2
    if math.isnan(half):
        return f"{mean:.4f}" if abs(mean) < 100 else number(mean), ""
    if half == 0:
        return f"{mean:.4f}", "0"
    # Two significant digits of the half width, at most six decimals.
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 6)
    text = f"{mean:.{decimals}f}"
    # A small negative mean rounds to a zero without a sign.
    return text.lstrip("-") if float(text) == 0 else text, f"{half:.{decimals}f}"


def amount(value: float | None, unit: str = "") -> str:
    """Returns a large count with an SI prefix: `1.23 G`."""
    if value is None or math.isnan(value):
        return _MISSING
    prefix, scale = next(((prefix, scale) for prefix, scale in _SI if abs(value) >= scale), ("", 1.0))
    return f"{value / scale:.3g} {prefix}{unit}".strip()


def byte_size(count: float) -> str:
    """Returns a number of bytes in decimal units, as disks are sold: `3.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float | None) -> str:
    """Returns a duration in seconds below two minutes, then in minutes, then in hours."""
    if seconds is None or math.isnan(seconds):
        return _MISSING
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:,.3g} h"


def time_unit(longest: float) -> tuple[str, float]:
    """Returns the unit for an axis of times up to `longest` seconds, and its length in seconds: `ms`, `s`, `min` or `h`."""
    units = (("h", 3600.0, 7200.0), ("min", 60.0, 120.0), ("s", 1.0, 1.0))
    return next(((unit, length) for unit, length, least in units if longest >= least), ("ms", 1e-3))


def time_span(seconds: float) -> str:
    """Returns a time for people who wait: `45 s`, `16 min`, `2 h 5 min`, `3 days 4 h`."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 48:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{hours // 24} days {hours % 24} h" if hours % 24 else f"{hours // 24} days"


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun: `1 run`, `2 runs`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def listed(names: Sequence[str], *, limit: int = 8) -> str:
    """Returns at most `limit` names: `a, b, c and 4 more`."""
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def brief(seconds: float | None) -> str:
    """Returns a short time with a unit and three significant digits: `23.4 µs`, `1.68 ms`."""
    if seconds is None or math.isnan(seconds):
        return _MISSING
    unit, scale = next(((unit, scale) for unit, scale in _SHORT if seconds >= scale), _SHORT[-1])
    return f"{seconds / scale:.3g} {unit}"


def sentence_case(text: str) -> str:
    """Returns the text with an upper-case first letter; unlike `str.capitalize`, it keeps the case of the other letters."""
    return text[:1].upper() + text[1:]
