"""What a score of unknown inputs is: options before it has seen training rows, and another type after. Higher means known.

A plug-in of the family `calibrate.scores` says what it asks of evidence, so that a job refuses before anything is computed.
Only the training rows are learned from; options are chosen on validation rows, see `pruneyard.workloads.calibrate.score_choice`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from pruneyard.workloads.calibrate.evidence import FEATURES, Evidence, Floats
from pruneyard.workloads.plugins import name_of

Rule = Callable[[Evidence], Floats]


@dataclass(frozen=True, kw_only=True)
class FittedScore:
    """A rule from evidence to scores, with all that it learned.

    numbers: the few learned ones that a table should show. num_features: of the network it was fitted to, if features matter.
    """

    name: str
    needs: frozenset[str]
    rule: Rule
    numbers: Mapping[str, float]
    num_features: int | None

    def score(self, evidence: Evidence) -> Floats:
        """(N,) float64, all finite; higher means more like the training data.

        Raises `ValueError` for evidence that lacks what is needed, is of another network, or has no finite score.
        """
        refuse_missing(self.name, self.needs, evidence.holds, of="the rows it scores")
        if self.num_features is not None and evidence.features.shape[1] != self.num_features:
            raise ValueError(
                f"rows have {evidence.features.shape[1]} features; {self.name} was fitted to {self.num_features}"
            )
        scores = np.asarray(self.rule(evidence), dtype=np.float64)
        wrong = ~np.isfinite(scores)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"row {row} has {self.name} score {scores[row]}; it must be finite")
        return scores


class Score(ABC):
    """A plug-in of the family: a frozen dataclass of options.

    needs: what must be known of the rows scored; learns_from: of the training rows, nothing where none are wanted.
    grid: values to try for some options, where they are chosen on validation rows.
    """

    needs: ClassVar[frozenset[str]]
    learns_from: ClassVar[frozenset[str]] = frozenset()
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({})

    @abstractmethod
    def fit(self, train: Evidence | None, *, seed: int) -> FittedScore:
        """Learns from training rows; `seed` decides all draws. Raises `ValueError` for rows it cannot learn from."""

    def check(self, *, train: Collection[str], rows: Collection[str]) -> None:
        """Raises `ValueError` unless what evidence of training rows and of others will hold is enough."""
        refuse_missing(name_of(self), self.learns_from, train, of="the training rows")
        refuse_missing(name_of(self), self.needs, rows, of="the rows it scores")

    def _fitted(self, rule: Rule, numbers: Mapping[str, float], train: Evidence | None) -> FittedScore:
        return FittedScore(
            name=name_of(self),
            needs=self.needs,
            rule=rule,
            numbers=dict(numbers),
            num_features=None if train is None else train.features.shape[1],
        )


class Immediate(Score):
    """A score that learns nothing: its formula is all of it."""

    @abstractmethod
    def of(self, evidence: Evidence) -> Floats:
        """(N,) scores."""

    def fit(self, train: Evidence | None, *, seed: int) -> FittedScore:
        """Looks at no row and draws nothing."""
        return self._fitted(self.of, {}, None)


class Learned(Score):
    """A score that learns from features of the training rows."""

    needs: ClassVar[frozenset[str]] = frozenset({FEATURES})
    learns_from: ClassVar[frozenset[str]] = frozenset({FEATURES})

    @abstractmethod
    def learn(self, train: Evidence, *, seed: int) -> tuple[Rule, Mapping[str, float]]:
        """The rule and the numbers worth showing."""

    def fit(self, train: Evidence | None, *, seed: int) -> FittedScore:
        """See `Score.fit`."""
        held = train.holds if train is not None else frozenset[str]()
        refuse_missing(name_of(self), self.learns_from, held, of="the training rows")
        assert train is not None
        rule, numbers = self.learn(train, seed=seed)
        return self._fitted(rule, numbers, train)


def refuse_missing(name: str, wanted: Collection[str], held: Collection[str], *, of: str) -> None:
    """Raises `ValueError` naming what of `wanted` is not in `held`."""
    missing = sorted(set(wanted) - set(held))
    if missing:
        known = ", ".join(sorted(held)) or "nothing"
        raise ValueError(f"{name} needs {' and '.join(missing)} of {of}; what is at hand is {known}")
