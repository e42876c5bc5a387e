"""Chooses options of an OOD score on in-distribution and OOD validation rows, never on test rows.

Every candidate is fitted to the same training rows and scores all validation rows with the same options. Published code has made
the mistake of comparing OOD rows scored with one setting to in-distribution rows scored with another.
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
    """The best candidate, fitted, and all candidates that were evaluated.

    tables: name and options of every candidate, as in a spec; aurocs: their AUROC on validation rows, in that order.
    """

    score: Score
    fitted: FittedScore
    tables: tuple[Mapping[str, Any], ...]
    aurocs: tuple[float, ...]

    @property
    def table(self) -> Mapping[str, Any]:
        """Name and options of the chosen candidate."""
        return table_of(self.score)


def candidates(score: Score) -> tuple[Score, ...]:
    """Returns the given score, then every combination of its grid that differs from it."""
    settings = [
        dataclasses.replace(score, **dict(zip(score.grid, values, strict=True)))  # type: ignore[type-var]
        for values in itertools.product(*score.grid.values())
    ]
    return (score, *(setting for setting in settings if setting != score))


def choose(
    given: Sequence[Score], *, train: Evidence | None, val_known: Evidence, val_unknown: Evidence, seed: int
) -> Choice:
    """Returns the candidate with the largest AUROC on validation rows; the first one among equals.

    A candidate that cannot be fitted or cannot score the rows (such as a k above the number of training rows) is skipped with
    a warning. Raises `ValueError` if the first candidate fails, and for no candidates.
    """
    if not given:
        raise ValueError("there are no candidates; there must be at least one")
    tried: list[tuple[float, Score, FittedScore]] = []
    for score in given:
        try:
            fitted = score.fit(train, seed=seed)
            tried.append((auroc(fitted.score(val_known), fitted.score(val_unknown)), score, fitted))
        except ValueError as error:
            # The first candidate has the options of the spec, so its failure is an error of the user.
            if not tried:
                raise
            logger.warning("skipping candidate %s: %s", table_of(score), error)
    # `max` returns the first of equals.
    best = max(tried, key=lambda each: each[0])
    return Choice(
        score=best[1],
        fitted=best[2],
        tables=tuple(table_of(score) for _, score, _ in tried),
        aurocs=tuple(area for area, _, _ in tried),
    )


def table_of(score: Score) -> dict[str, Any]:
    """Returns name and options as in a spec."""
    return {"name": name_of(score), **dataclasses.asdict(score)}  # type: ignore[call-overload]
