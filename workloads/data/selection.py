"""Selection of training rows: statistics of the rows, the protocol of a selector, and the base classes of selectors."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

NO_STATISTICS: frozenset[str] = frozenset()
FEATURES, OUTPUTS, GRADIENTS, CLASSIFIER_GRADIENTS = "features", "outputs", "gradients", "classifier_gradients"
"""The statistics of rows that a selector may need. If it needs none of them, no network is trained."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Training rows to select from, with their statistics. A statistic that the selector does not need is an empty tensor.

    labels: (N,) int64.
    features: (N, F) float32, the inputs of the last layer of a trained network.
    errors, margins: (R, E, N) float32, of R networks after each of E epochs: the norm of (probabilities - one-hot label),
        which is EL2N, and the probability of the label minus the largest other probability.
    gradient_norms: (R, N) float32, after the last epoch.
    """

    labels: Tensor
    features: Tensor = field(default_factory=lambda: torch.zeros(0))
    errors: Tensor = field(default_factory=lambda: torch.zeros(0))
    margins: Tensor = field(default_factory=lambda: torch.zeros(0))
    gradient_norms: Tensor = field(default_factory=lambda: torch.zeros(0))

    def subset(self, rows: Tensor) -> "Pool":
        """Returns the pool of some rows, (n,) int64, in their order."""

        def select(tensor: Tensor) -> Tensor:
            # A statistic that was not asked for is empty and has no row axis.
            return tensor[..., rows] if tensor.numel() else tensor

        features = self.features[rows] if len(self.features) else self.features
        return Pool(
            labels=self.labels[rows],
            features=features,
            errors=select(self.errors),
            margins=select(self.margins),
            gradient_norms=select(self.gradient_norms),
        )


class Selector(Protocol):
    """A rule that selects rows: a frozen dataclass in `workloads/data/selectors`."""

    def __hash__(self) -> int:
        """Returns equal hashes for equal tables, which select equal rows."""
        ...

    @property
    def asks(self) -> frozenset[str]:
        """The statistics of rows that the selector needs, such as `FEATURES`."""
        ...

    def select(self, pool: Pool, counts: Sequence[int], generator: torch.Generator) -> Tensor:
        """Returns `counts[k]` different rows of each class k: (sum of counts,) int64, class after class.

        Among equally good rows the first is selected. Raises `ValueError` if a class has too few rows.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ClasswiseSelector(ABC):
    """A selector that treats each class separately."""

    def __post_init__(self) -> None:  # noqa: B027 - classes that are mixed in call it with super()
        """Has no fields to check."""

    @property
    def asks(self) -> frozenset[str]:
        return NO_STATISTICS

    def select(self, pool: Pool, counts: Sequence[int], generator: torch.Generator) -> Tensor:
        """See `Selector`."""
        # `cat` of no tensors fails, which would happen if all counts are 0.
        chosen = [torch.zeros(0, dtype=torch.int64, device=pool.labels.device)]
        for label, count in enumerate(counts):
            rows = (pool.labels == label).nonzero().squeeze(1)
            if count > len(rows):
                raise ValueError(f"class {label} has {len(rows)} training rows, but {count} are needed; select fewer")
            if count:
                chosen.append(rows[self.select_in_class(pool.subset(rows), count, generator).to(rows.device)])
        return torch.cat(chosen)

    @abstractmethod
    def select_in_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        """Returns `count` different row indices (count,) int64 into a pool of one class; 1 <= count <= rows of the pool."""


@dataclass(frozen=True, kw_only=True)
class HardnessSelector(ClasswiseSelector):
    """A selector that sorts the rows of a class by their hardness.

    keep: the hardest rows, as published for keeping a large share, or the easiest, which work better if few rows are kept.
    skip: share of the rows of the class that is skipped at that end, where labels may be wrong; it is reduced if too few rows
        would remain.
    """

    keep: Literal["hardest", "easiest"] = "hardest"
    skip: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep not in ("hardest", "easiest"):
            raise ValueError(f"keep is {self.keep!r}; it must be hardest or easiest")
        if not 0 <= self.skip < 1:
            raise ValueError(f"skip is {self.skip}; it must lie in [0, 1), a share of the rows of a class")

    @property
    def asks(self) -> frozenset[str]:
        return frozenset({OUTPUTS})

    @abstractmethod
    def hardness(self, pool: Pool) -> Tensor:
        """Returns the hardness of each row (N,); larger values are harder."""

    def select_in_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        order = self.hardness(pool).sort(descending=self.keep == "hardest", stable=True).indices
        # Skips fewer rows if `count` of them would not remain.
        first = min(int(self.skip * len(order)), len(order) - count)
        return order[first : first + count]


def error_norms(pool: Pool) -> Tensor:
    """Returns EL2N (N,) after the last epoch, the mean over networks; values lie between 0 and the square root of 2."""
    return pool.errors[:, -1].mean(0)


def area_under_margin(pool: Pool) -> Tensor:
    """Returns the sum of margins over epochs (N,), the mean over networks; it is low for rows that are likely mislabelled."""
    return pool.margins.sum(1).mean(0)


def forgetting_events(pool: Pool) -> Tensor:
    """Returns how often each row (N,) was classified correctly after an epoch and wrongly after the next, summed over networks.

    A row that was never classified correctly counts as forgotten at every epoch, which is more than any other row can reach.
    """
    correct = pool.margins > 0
    forgotten = (correct[:, :-1] & ~correct[:, 1:]).sum(1)
    never_learned = ~correct.any(1)
    # E epochs allow at most E / 2 changes from right to wrong, so E ranks above all of them.
    return torch.where(never_learned, correct.shape[1], forgotten).sum(0)
