"""Base classes of OOD scores: unfitted scores with options, and fitted ones. Higher means more in-distribution.

A plug-in of the family `calibrate.scores` declares the evidence that it needs, so a job fails before any computation.
Scores learn from training rows only; options are chosen on validation rows, see `pruneyard.workloads.calibrate.score_choice`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from pruneyard.workloads.calibrate.changed_network import ChangedNetwork
from pruneyard.workloads.calibrate.evidence import FEATURES, Evidence, Floats
from pruneyard.workloads.plugins import name_of

Rule = Callable[[Evidence], Floats]


@dataclass(frozen=True, kw_only=True)
class FittedScore:
    """A fitted function from evidence to scores.

    numbers: learned values that a table should show. num_features: number of features of the fitted network, if it uses them.
    """

    name: str
    needs: frozenset[str]
    rule: Rule
    numbers: Mapping[str, float]
    num_features: int | None

    def score(self, evidence: Evidence) -> Floats:
        """Returns finite scores (N,) as float64; higher means closer to the training data.

        Raises `ValueError` for missing evidence, for evidence of another network, and for scores that are not finite.
        """
        refuse_missing(self.name, self.needs, evidence.holds, of="the rows it scores")
        if self.num_features is not None and evidence.features.shape[1] != self.num_features:
            raise ValueError(
                f"rows have {evidence.features.shape[1]} features, but {self.name} was fitted to {self.num_features}"
            )
        scores = np.asarray(self.rule(evidence), dtype=np.float64)
        wrong = ~np.isfinite(scores)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(f"row {row} has {self.name} score {scores[row]}; it must be finite")
        return scores

    def accuracy(self, evidence: Evidence) -> float | None:
        """Returns the accuracy of the network as the score changes it; None if the score leaves the network as it is."""
        return self.rule.accuracy(evidence) if isinstance(self.rule, ChangedNetwork) else None


class Score(ABC):
    """Base class of the plug-ins of the family `calibrate.scores`: a frozen dataclass of options.

    needs: evidence of the rows to score. learns_from: evidence of the training rows; empty if the score learns nothing.
    grid: candidate values of options that may be chosen on validation rows.
    """

    needs: ClassVar[frozenset[str]]
    learns_from: ClassVar[frozenset[str]] = frozenset()
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = MappingProxyType({})

    @abstractmethod
    def fit(self, train: Evidence | None, *, seed: int) -> FittedScore:
        """Fits to training rows; `seed` determines all random numbers. Raises `ValueError` for unsuitable rows."""

    def check(self, *, train: Collection[str], rows: Collection[str]) -> None:
        """Raises `ValueError` unless the available evidence of training rows and of scored rows is sufficient."""
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
    """Base class of scores that need no fitting."""

    @abstractmethod
    def of(self, evidence: Evidence) -> Floats:
        """Returns scores (N,)."""

    @property
    def rule(self) -> Rule:
        """The scoring function."""
        return self.of

    def fit(self, train: Evidence | None, *, seed: int) -> FittedScore:
        """Returns the fitted score without using any row."""
        return self._fitted(self.rule, {}, None)


class Learned(Score):
    """Base class of scores that learn from features of the training rows."""

    needs: ClassVar[frozenset[str]] = frozenset({FEATURES})
    learns_from: ClassVar[frozenset[str]] = frozenset({FEATURES})

    @abstractmethod
    def learn(self, train: Evidence, *, seed: int) -> tuple[Rule, Mapping[str, float]]:
        """Returns the fitted scoring function and the values that a table should show."""

    def fit(self, train: Evidence | None, *, seed: int) -> FittedScore:
        """See `Score.fit`."""
        # Without training rows nothing is available, which gives the same error as incomplete ones.
        held = train.holds if train is not None else frozenset[str]()
        refuse_missing(name_of(self), self.learns_from, held, of="the training rows")
        assert train is not None
        rule, numbers = self.learn(train, seed=seed)
        return self._fitted(rule, numbers, train)


def refuse_missing(name: str, wanted: Collection[str], held: Collection[str], *, of: str) -> None:
    """Raises `ValueError` naming the elements of `wanted` that are not in `held`."""
    missing = sorted(set(wanted) - set(held))
    if missing:
        known = ", ".join(sorted(held)) or "nothing"
        raise ValueError(f"{name} needs {' and '.join(missing)} of {of}; available: {known}")
