"""Measures the claims of papers on the runs of a study: effects paired by seed, and whether mechanisms act."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from pruneyard.reports.cells import flat_spec, pairing
from pruneyard.reports.evidence.claim import Compared, Condition, EvidenceClaims, Guard, PaperClaim, Values
from pruneyard.reports.evidence.verdict import MIN_PAIRS, Effect, Judgement, Kept, judge
from pruneyard.reports.glossary import larger_is_better
from pruneyard.reports.records import Status
from pruneyard.reports.renamed_keys import present_key
from pruneyard.reports.statistics.differences import holm, t_test
from pruneyard.reports.statistics.intervals import estimate
from pruneyard.reports.study import Study
from pruneyard.reports.targets import up_to_target, with_cost

EPOCHS_TO = "epochs to "


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The value of one condition of the mechanism over seeds, with its 95% interval; `acts` is None where that is not clear."""

    condition: Condition
    num: int
    mean: float
    low: float
    high: float

    @property
    def acts(self) -> bool | None:
        """Returns True if the whole interval lies beyond the threshold, False if none of it does, and None otherwise."""
        if self.num < 2 or math.isnan(self.low):
            return None
        if self.condition.above is not None:
            return True if self.low > self.condition.above else False if self.high <= self.condition.above else None
        assert self.condition.below is not None, "checked on construction"
        return True if self.high < self.condition.below else False if self.low >= self.condition.below else None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One comparison of a claim on the runs: the setting of the method and of the base method, the numbers and the verdict."""

    claim: PaperClaim
    compared: Compared
    setting: Mapping[str, Any]
    of_base: Mapping[str, Any]
    effect: Effect
    mechanism: tuple[Measured, ...]
    judgement: Judgement

    @property
    def acts(self) -> bool | None:
        """Returns whether the mechanism acts, as `mechanism_acts` says of its conditions."""
        return mechanism_acts([each.acts for each in self.mechanism])


def mechanism_acts(conditions: Sequence[bool | None]) -> bool | None:
    """Returns whether one of the conditions holds; None where none holds and one is not known, or where there is none."""
    if any(each is True for each in conditions):
        return True
    return False if conditions and all(each is False for each in conditions) else None


def findings(study: Study, claims: EvidenceClaims) -> list[Finding]:
    """Returns every comparison that the runs of a study allow, in the order of the claims."""
    runs = _Runs(study)
    return [found for claim in claims.claims for found in _of_claim(claim, runs)]


def _of_claim(claim: PaperClaim, runs: _Runs) -> list[Finding]:
    pairs, effects, p_values = [], [], []
    for compared in claim.comparisons:
        own = [(pair, runs.values(claim.measure, *pair)) for pair in runs.pairs(compared, claim.match)]
        nums = [len((after - before).dropna()) for _, (before, after) in own]
        # Single seeds, as those of a search, say nothing beside settings with seeds enough.
        least = min(max(nums, default=0), MIN_PAIRS)
        for (pair, (before, after)), num in zip(own, nums, strict=True):
            if num >= least:
                pairs.append((compared, *pair))
                p_values.append(_p_value(before, after))
                effects.append(_effect(before, after))
    corrected = holm(p_values)
    found = []
    for (compared, base, method), effect, p in zip(pairs, effects, corrected, strict=True):
        effect = replace(effect, p_corrected=float(p))
        mechanism = tuple(_measured(condition, runs, base, method) for condition in claim.mechanism)
        judgement = judge(
            effect,
            mechanism_acts([each.acts for each in mechanism]),
            published=claim.published,
            rises=claim.rises,
            kept=[_kept(guard, runs, base, method) for guard in claim.keeps],
            as_published=compared.as_published,
        )
        found.append(
            Finding(
                claim=claim,
                compared=compared,
                setting=runs.specs[method],
                of_base=runs.specs[base],
                effect=effect,
                mechanism=mechanism,
                judgement=judgement,
            )
        )
    return found


def _p_value(before: pd.Series[float], after: pd.Series[float]) -> float:
    """Returns that of the paired t test; NaN if a pair of completed runs lacks a finite value."""
    differences = after - before
    shared = differences[before.index.intersection(after.index)]
    return math.nan if shared.empty or shared.isna().any() else t_test(shared)


def _effect(before: pd.Series[float], after: pd.Series[float]) -> Effect:
    shared = before.index.intersection(after.index)
    both = (after - before)[shared].dropna().index
    if not len(both):
        nan = math.nan
        return Effect(num_pairs=0, base=nan, method=nan, difference=nan, low=nan, high=nan)
    found = estimate((after - before)[both])
    return Effect(
        num_pairs=len(both),
        num_missing=len(shared) - len(both),
        base=float(before[both].mean()),
        method=float(after[both].mean()),
        difference=float(found.mean),
        low=float(found.low),
        high=float(found.high),
    )


def _measured(condition: Condition, runs: _Runs, base: int, method: int) -> Measured:
    before, after = runs.values(condition.measure, base, method)
    values = (after - before if condition.against_base else after).dropna()
    if not len(values):
        return Measured(condition=condition, num=0, mean=math.nan, low=math.nan, high=math.nan)
    found = estimate(values)
    return Measured(
        condition=condition, num=len(values), mean=float(found.mean), low=float(found.low), high=float(found.high)
    )


def _kept(guard: Guard, runs: _Runs, base: int, method: int) -> Kept:
    """Returns by how much a measure gets worse at the end of its interval that speaks for the method."""
    effect = _effect(*runs.values(guard.measure, base, method))
    worse = -effect.high if larger_is_better(guard.measure) else effect.low
    return Kept(measure=guard.measure, worse_by=0.0 if math.isnan(worse) else max(0.0, worse), allowed=guard.worse_by)


class _Runs:
    """The completed runs of a study by cell, without those that a setting was chosen by."""

    def __init__(self, study: Study) -> None:
        labelled = study.labelled
        runs = labelled[(labelled["status"] == Status.COMPLETED) & ~labelled["stage"].isin(study.chosen_from)]
        self._runs = {int(own["cell"].iloc[0]): own for _, own in runs.groupby("cell")}
        self._study = study
        self.specs = {cell: _flat(own.iloc[0]) for cell, own in self._runs.items()}

    def pairs(self, compared: Compared, match: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Yields the cells of the base method and of the method that agree in the keys of `match`."""
        sides = [
            [cell for cell, spec in self.specs.items() if _has(spec, {**compared.where, **values})]
            for values in (compared.base, compared.method)
        ]
        for method in sides[1]:
            for base in sides[0]:
                if base != method and _agree(self.specs[base], self.specs[method], match):
                    yield base, method

    def values(self, measure: str, base: int, method: int) -> tuple[pd.Series[float], pd.Series[float]]:
        """Returns the values of both cells by repetition: by the first run of a lineage where they share it, else by its seed."""
        own = [self._runs[cell] for cell in (base, method)]
        by = pairing(*own)
        if measure.startswith(EPOCHS_TO):
            of_runs = self._epochs(measure.removeprefix(EPOCHS_TO), own)
        else:
            table = self._study.by_run
            of_runs = table[measure] if measure in table else pd.Series(dtype="float64")
        before, after = (
            each.assign(value=of_runs.reindex(each["run_key"]).to_numpy()).groupby(by)["value"].mean(skipna=False) for each in own
        )
        return before, after

    def _epochs(self, measure: str, own: Sequence[pd.DataFrame]) -> pd.Series[float]:
        """Returns the epochs of every run until it reaches the lowest of the best values of the base method's runs.

        A run that never reaches it counts with its whole length, which flatters it.
        """
        points = with_cost(self._study.history, "epochs")
        points = points[points["measure"] == measure]
        of_base = points[points["run_key"].isin(own[0]["run_key"])]
        if of_base.empty:
            return pd.Series(dtype="float64")
        rises = larger_is_better(measure)
        best = of_base.groupby("run_key")["value"].agg("max" if rises else "min")
        costs: pd.Series[float] = up_to_target(points, float(best.min() if rises else best.max()), rises=rises)["cost"]
        return costs


def _flat(run: pd.Series[Any]) -> dict[str, Any]:
    """Returns the settings of a run by dotted keys: its spec, and what its input runs were."""
    texts = [text for text in (run["identity_json"], run["spec_json"]) if isinstance(text, str)]
    flat: dict[str, Any] = {}
    for text in texts:
        own = flat_spec(text)
        flat |= {present_key(key, own): value for key, value in own.items()}
    flat.pop("input.runs", None)  # keys of single runs; what they are stands below it
    return flat | {"kind": run["kind"], "stage": run["stage"]}


def _has(spec: Mapping[str, Any], values: Values) -> bool:
    return all(_equal(spec.get(key), value) for key, value in values.items())


def _agree(one: Mapping[str, Any], other: Mapping[str, Any], match: Sequence[str]) -> bool:
    keys = [key for key in {**one, **other} if any(key == name or key.startswith(f"{name}.") for name in match)]
    return all(_equal(one.get(key), other.get(key)) for key in keys)


def _equal(one: Any, other: Any) -> bool:
    numbers = (int, float)
    if isinstance(one, numbers) and isinstance(other, numbers):
        return math.isclose(one, other, rel_tol=1e-9)
    return bool(one == other)
