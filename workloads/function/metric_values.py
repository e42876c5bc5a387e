"""Turns what a function of the user reports into metrics: names with a split, and finite numbers."""

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch

from pruneyard.workloads.workload import NonFiniteError

DEFAULT_SPLIT = "val"
SPLITS = ("train", "val", "calib", "test")
_NAME = re.compile(r"[^\s/]+")


class MetricError(ValueError):
    """A name that is no name of a metric, or a value that is no number."""


def metric_values(reported: Mapping[str, Any], *, place: str) -> dict[tuple[str, str], float]:
    """Returns the values by split and name.

    `val/accuracy` and `val_accuracy` are the same metric, and so is `accuracy`: a name without a split belongs to `val`. Other
    splits need a slash.

        metric_values({"train_loss": 0.3, "accuracy": 0.9}, place="at step 1")  # {("train", "loss"): 0.3, ("val", ...): 0.9}

    place: where the values come from, for messages.

    Raises `MetricError` for a name that is no name of a metric, a value that is not one number, and two values of one metric;
    `NonFiniteError` for NaN and infinity.
    """
    found: dict[tuple[str, str], float] = {}
    for name, value in reported.items():
        key = _split_and_name(name, place)
        if key in found:
            raise MetricError(f"{'/'.join(key)} is given twice {place}; give it once")
        number = _number(value)
        if number is None:
            raise MetricError(f"{name} is {_shown(value)} {place}; a metric must be a number")
        if not math.isfinite(number):
            raise NonFiniteError(
                f"{name} is {number} {place}; a metric must be finite: leave out what is undefined"
            )
        found[key] = number
    return found


def _split_and_name(given: Any, place: str) -> tuple[str, str]:
    if not isinstance(given, str):
        raise MetricError(f"{given!r} is no name of a metric {place}; it must be text")
    split, slash, name = given.partition("/")
    if not slash:
        start, underscore, rest = given.partition("_")
        split, name = (start, rest) if underscore and rest and start in SPLITS else (DEFAULT_SPLIT, given)
    if _NAME.fullmatch(split) is None or _NAME.fullmatch(name) is None:
        raise MetricError(
            f"{given!r} is no name of a metric {place}; it must be split/name or name, such as val/accuracy"
        )
    return split, name


def _number(value: Any) -> float | None:
    """Returns a number, or the one element of a tensor or an array; None for any other value."""
    if isinstance(value, torch.Tensor | np.ndarray):
        if value.size != 1 if isinstance(value, np.ndarray) else value.numel() != 1:
            return None
        value = value.item()
    return float(value) if isinstance(value, Real) else None


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
