"""Compares every setting of results folders with a baseline, and decides gates such as `test/accuracy >= baseline - 0.005`."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.reading.metric_names import check_recorded
from pruneyard.reports.baselines import natural_baseline
from pruneyard.reports.matched import Budget, at_budget
from pruneyard.reports.paired import Selection, against_baseline
from pruneyard.reports.study import Study

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?"
_ENDS = {"lower": "low", "upper": "high"}
_GATE = re.compile(
    rf"\s*(?:(?P<end>{'|'.join(_ENDS)})\s*\(\s*)?(?P<metric>[^\s<>=()]+)(?(end)\s*\))\s*(?P<operator>>=|<=|>|<)\s*"
    rf"(?:(?P<baseline>baseline)\s*(?:(?P<sign>[+-])\s*(?P<shift>{_NUMBER}))?|(?P<value>-?(?:{_NUMBER})))\s*"
)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A condition on a metric over the common seeds: `METRIC >= baseline - NUMBER`, or `METRIC < NUMBER`.

    It is one on the mean, or with `lower(METRIC)` and `upper(METRIC)` on an end of the 95% t interval: that of the mean where the
    limit is a number, and that of the paired difference from the baseline where the limit is relative to it.
    """

    text: str
    metric: str
    holds: Callable[[float, float], bool]
    of_baseline: bool
    shift: float  # added to the baseline's mean, or the limit itself
    end: str = ""  # `low` or `high` where an end of the interval counts

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Returns the gate of an expression. Raises `UsageError` for any other text."""
        found = _GATE.fullmatch(text)
        if found is None:
            raise UsageError(
                f"--gate {text!r}: it must be METRIC, then one of {', '.join(_OPERATORS)}, then a number, or baseline with or "
                "without + or - a number, as in 'test/accuracy >= baseline - 0.005'; lower(METRIC) and upper(METRIC) stand for "
                "the ends of the 95% interval"
            )
        shift = float(found["value"] or found["shift"] or 0.0)
        return cls(
            text=text.strip(),
            metric=found["metric"],
            holds=_OPERATORS[found["operator"]],
            of_baseline=found["baseline"] is not None,
            shift=-shift if found["sign"] == "-" else shift,
            end=_ENDS.get(found["end"] or "", ""),
        )

    def failures(self, table: pd.DataFrame) -> list[str]:
        """Returns one line for every setting of the comparison that breaks the condition, or that cannot be judged."""
        lines = []
        for _, row in table[table["metric"] == self.metric].iterrows():
            if row["num_missing"]:
                lines.append(f"{row['a']} and the baseline: {row['verdict']}")
                continue
            if self.end:
                lines += self._failure_of_end(row)
                continue
            limit = self.shift + (row["mean_b"] if self.of_baseline else 0.0)
            if math.isnan(row["mean_a"]) or math.isnan(limit):
                lines.append(f"{row['a']} and the baseline have no common seed")
            elif not self.holds(row["mean_a"], limit):
                lines.append(f"{row['a']} has {row['mean_a']:.6g}; the limit is {limit:.6g}")
        return lines

    def _failure_of_end(self, row: "pd.Series[Any]") -> list[str]:
        """Returns the line for a setting whose interval breaks the condition, or that has no interval."""
        of = "the difference from the baseline" if self.of_baseline else "its mean"
        value = float(row[f"{'difference' if self.of_baseline else 'mean_a'}_{self.end}"])
        if math.isnan(value):
            return [f"{row['a']} has {row['num_pairs']} common seeds with the baseline; an interval needs two"]
        if self.holds(value, self.shift):
            return []
        name = next(word for word, end in _ENDS.items() if end == self.end)
        return [f"{row['a']}: the {name} end of the interval of {of} is {value:.6g}; the limit is {self.shift:.6g}"]


def compared(
    study: Study,
    *,
    baseline: Selection | None,
    metrics: Sequence[str],
    only: Selection | None = None,
    margin: float | None = None,
) -> pd.DataFrame:
    """Returns the comparison of all settings with the baseline; see `reports.paired.against_baseline`.

    baseline: None for the one that the study has by itself. metrics: none for the first one of the summary.

    Raises `UsageError` for a column, value or metric that there is not, and where a baseline must be named.
    """
    measures = list(metrics or study.measures[:1])
    check_recorded(measures, measures=set(study.history["measure"]))
    found = baseline or natural_baseline(study)
    if not found:
        methods = ", ".join(sorted({str(name) for name in study.cells["method"].dropna()}))
        raise UsageError(f"--baseline: must be given, such as method=NAME; the methods are {methods}")
    try:
        return against_baseline(study, found, measures, only=only, margin=margin)
    except ValueError as error:
        raise UsageError(str(error)) from error


def matched(study: Study, budget: str | None, pool: Sequence[str] = ()) -> Study:
    """Returns the study at an equal budget of all runs, such as `epochs=5`, with settings pooled; see `Study.pool`.

    budget: None for the study as it is. Raises `UsageError` for a budget that no run has spent and for what cannot be pooled.
    """
    try:
        pooled = study.pool(pool)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    try:
        return pooled if budget is None else at_budget(pooled, Budget.parse(budget))
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from error


def selection(study: Study, texts: Sequence[str], *, option: str) -> dict[str, Any]:
    """Returns the selection that KEY=VALUE texts name; a value is that of the column whose text or number it is.

    Raises `UsageError` for a text without `=`.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"{option} {text}: it must be KEY=VALUE, as in method=static")
        values = list(study.cells[key].dropna().unique()) if key in study.cells else []
        found[key] = next((known for known in values if _is_meant(known, value)), value)
    return found


def _is_meant(known: Any, text: str) -> bool:
    if isinstance(known, str | bool):
        return str(known).lower() == text.lower()
    try:
        return bool(float(known) == float(text))
    except (TypeError, ValueError):
        return False
