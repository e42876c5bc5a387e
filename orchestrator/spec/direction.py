"""Knows whether a metric is better when larger or when smaller. A direction that is not known is never assumed."""

import logging
from functools import cache
from typing import Literal

from pruneyard.reports.glossary import LARGER_IS_BETTER
from pruneyard.workloads.user_code.nearest import nearest, nearest_name

Direction = Literal["max", "min"]

FITTED_ON = ("train", "val", "calib")  # splits on whose metrics a choice may depend
COSTS = ("num_active", "num_parameters", "train_flops", "train_s")  # columns of a run; smaller is better

log = logging.getLogger(__name__)


def known_direction(metric: str) -> Direction | None:
    """Returns the direction of `split/name` or of a column of costs; None where nothing is known of it."""
    if metric in COSTS:
        return "min"
    larger = LARGER_IS_BETTER.get(metric.partition("/")[2])
    return None if larger is None else "max" if larger else "min"


def nearest_metric(metric: str) -> str:
    """Returns a hint at the most similar metric of known direction on which a choice may depend; empty where none is similar."""
    split, slash, name = metric.partition("/") if "/" in metric else ("val", "/", metric)
    # Without the split, which would make any two names of one split similar.
    found = nearest_name(name, LARGER_IS_BETTER)
    return nearest(split + slash + found, [f"{each}/{found}" for each in FITTED_ON]) if found else ""


@cache  # a spec is decoded several times in one call
def warn_of_slip(metric: str) -> None:
    """Warns where a metric is not known and a known one is similar."""
    if known_direction(metric) is None and (hint := nearest_metric(metric)):
        log.warning("metric %s is not known%s", metric, hint)


def chosen_direction(metric: str, mode: Direction | None, *, field: str) -> Direction:
    """Returns the direction that a spec means. A mode against what the metric is wins, with a warning that names it.

    Raises `ValueError`, starting with `field`, where no mode is given and the direction is not known.
    """
    known = known_direction(metric)
    if mode is None:
        if known is None:
            hint = nearest_metric(metric)
            own = f"{hint} A" if hint else "; a"
            raise ValueError(
                f"{field} is missing; metric {metric} is not known{own} metric of your own needs {field}: max or min"
            )
        return known
    if known is not None and known != mode:
        _warn_of_contradiction(metric, mode)
    return mode


@cache  # a spec is decoded several times in one call
def _warn_of_contradiction(metric: str, mode: Direction) -> None:
    better = "smaller" if mode == "max" else "larger"
    log.warning("mode %s of %s looks for the worst: %s is better when %s; leave mode out", mode, metric, metric, better)
