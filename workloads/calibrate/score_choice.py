"""Chooses a score's options on validation rows, known and unknown ones, never on test rows.

Every setting is fitted to the same training rows, and its known and unknown validation rows are scored at that same setting: to
compare scores of unknown rows at one setting with scores of known rows at another is a mistake of published code.
"""

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneyard.workloads.calibrate.evidence import Evidence
from pruneyard.workloads.calibrate.score import FittedScore, Score
from pruneyard.workloads.metrics.detection import auroc
from pruneyard.workloads.plugins import name_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The best setting, fitted, and what was tried.

    tables: of every candidate tried, its name and options as in a spec; aurocs: their areas on validation rows, in that order.
    """

    score: Score
    fitted: FittedScore
    tables: tuple[Mapping[str, Any], ...]
    aurocs: tuple[float, ...]

    @property
    def table(self) -> Mapping[str, Any]:
        """Name and options of the chosen one."""
        return table_of(self.score)


def candidates(score: Score) -> tuple[Score, ...]:
    """The score as it is, then every combination of its class's grid that differs from it."""
    settings = [
        dataclasses.replace(score, **dict(zip(score.grid, values, strict=True)))  # type: ignore[type-var]
        for values in itertools.product(*score.grid.values())
    ]
    return (score, *(setting for setting in settings if setting != score))


def choose(
    given: Sequence[Score], *, train: Evidence | None, val_known: Evidence, val_unknown: Evidence, seed: int
) -> Choice:
    """The candidate with the largest AUROC on validation rows; of equal ones the first.

    What a candidate after the first cannot be fitted to or cannot score (a k above the number of training rows, say) takes it out
    with a warning; of the first it raises `ValueError`, and so do no candidates.
    """
    if not given:
        raise ValueError("there are no candidates; there must be at least one")
    tried: list[tuple[float, Score, FittedScore]] = []
    for score in given:
        try:
            fitted = score.fit(train, seed=seed)
            tried.append((auroc(fitted.score(val_known), fitted.score(val_unknown)), score, fitted))
        except ValueError as error:
            if not tried:
                raise
            logger.warning("%s is not tried: %s", table_of(score), error)
    best = max(tried, key=lambda each: each[0])
    return Choice(
        score=best[1],
        fitted=best[2],
        tables=tuple(table_of(score) for _, score, _ in tried),
        aurocs=tuple(area for area, _, _ in tried),
    )


def table_of(score: Score) -> dict[str, Any]:
    """Name and options as in a spec."""
    return {"name": name_of(score), **dataclasses.asdict(score)}  # type: ignore[call-overload]
