"""A study as it was when every run had spent the same budget: equal steps, epochs, measured time or counted FLOPs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd
import pyarrow as pa

from pruneyard.reports.study import Study
from pruneyard.reports.targets import COSTS, with_cost

_OF_WHOLE_RUNS = ("train_flops", "train_s")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """An amount that every run may spend: steps, epochs, seconds of training time, or FLOPs."""

    kind: str
    amount: float

    def __post_init__(self) -> None:
        if self.kind not in COSTS:
            raise ValueError(f"budget {self.kind!r} is unknown; it must be one of {', '.join(COSTS)}")
        if not self.amount > 0:
            raise ValueError(f"budget {self.kind}={self.amount:g}: the amount must be above 0")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Returns the budget of a text such as `epochs=5`. Raises `ValueError` for any other text."""
        kind, _, amount = text.partition("=")
        try:
            return cls(kind=kind, amount=float(amount))
        except ValueError as error:
            allowed = " or ".join(f"{name}=NUMBER" for name in COSTS)
            is_number = not str(error).startswith("could not convert")
            raise ValueError(str(error) if is_number else f"budget {text}: must be {allowed}") from error


def at_budget(study: Study, budget: Budget) -> Study:
    """Returns the study with only those evaluations that every run had made within the budget.

    Values are those of the last evaluation within it, so evaluate often. A run that ended before it had spent the budget did not
    have the chance to use it, and has no values. Costs of whole runs are unknown in the result, since they are not those of the
    budget. Raises `ValueError` where no run has spent the budget, with the largest amount that one has.
    """
    spent = with_cost(study.history, budget.kind)
    most = spent.groupby("run_key")["cost"].max()
    enough = set(most.index[most >= budget.amount * (1 - 1e-9)])
    if not enough:
        known = f"the most that one has is {most.max():g}" if len(most) else f"none has recorded {COSTS[budget.kind]}"
        raise ValueError(f"budget {budget.kind}={budget.amount:g}: no run has spent it; {known}")
    kept = spent[spent["run_key"].isin(enough) & (spent["cost"] <= budget.amount * (1 + 1e-9))]
    return replace(study, metrics=_rows(study.metrics, kept), runs=_without_costs(study.runs), spent=_epochs(kept, study.history))


def _epochs(kept: pd.DataFrame, history: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Returns the last epoch of every run within the budget, and of the whole run."""
    within, whole = (table.groupby("run_key")["epoch"].max() for table in (kept, history))
    pairs = zip(within.index, within, whole.reindex(within.index), strict=True)
    return {str(key): (float(last), float(end)) for key, last, end in pairs}


def _rows(metrics: pa.Table, kept: pd.DataFrame) -> pa.Table:
    """Returns the rows of the table that are evaluations of `kept`."""
    types = {"run_key": "str", "step": "int64"}
    places, wanted = (frame.astype(types) for frame in (metrics.select(list(types)).to_pandas(), kept[list(types)]))
    return metrics.filter(pa.array(pd.MultiIndex.from_frame(places).isin(pd.MultiIndex.from_frame(wanted))))


def _without_costs(runs: pa.Table) -> pa.Table:
    for name in _OF_WHOLE_RUNS:
        place = runs.schema.get_field_index(name)
        runs = runs.set_column(place, runs.schema.field(name), pa.nulls(len(runs), runs.schema.field(name).type))
    return runs
