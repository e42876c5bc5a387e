"""Checks that the arguments of a function are plain values, which have one form in a run key."""

import math
from collections.abc import Mapping
from typing import Any


def check_plain(arguments: Mapping[str, Any], at: str = "arguments") -> None:
    """Raises `ValueError`, with the dotted key, for a value that is no number, text, list or table of them, or not finite."""
    for name, value in arguments.items():
        if not isinstance(name, str):
            raise ValueError(f"{at} has the key {name!r}; keys must be text")
        _check_value(value, f"{at}.{name}")


def _check_value(value: Any, at: str) -> None:
    if isinstance(value, Mapping):
        check_plain(value, at)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_value(item, at)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{at} is {value}; it must be finite")
    elif value is not None and type(value) not in (bool, int, float, str):
        raise ValueError(f"{at} is a {type(value).__name__}; it must be a number, text, a list or a table")
