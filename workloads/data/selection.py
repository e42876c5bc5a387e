"""Which training rows to keep: what is known of the rows, the protocol of a rule that chooses, and what rules share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

NOTHING: frozenset[str] = frozenset()
FEATURES, OUTPUTS, GRADIENTS, CLASSIFIER_GRADIENTS = "features", "outputs", "gradients", "classifier_gradients"
"""What a rule may ask to be known of the rows. With none of them no network needs to be trained."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Training rows to choose from. What nobody asked for is not filled in: it has no rows.

    labels: (N,) int64.
    features: (N, F) float32, what the last layer of a trained network sees.
    errors, margins: (R, E, N) float32, of R networks after each of E epochs: the length of (probabilities - one-hot label),
        which is EL2N, and the label's probability less the largest other one.
    gradient_norms: (R, N) float32, after the last epoch.
    """

    labels: Tensor
    features: Tensor = field(default_factory=lambda: torch.zeros(0))
    errors: Tensor = field(default_factory=lambda: torch.zeros(0))
    margins: Tensor = field(default_factory=lambda: torch.zeros(0))
    gradient_norms: Tensor = field(default_factory=lambda: torch.zeros(0))

    def part(self, rows: Tensor) -> "Pool":
        """Some rows, (n,) int64, in their order."""

        def of(tensor: Tensor) -> Tensor:
            return tensor[..., rows] if tensor.numel() else tensor

        features = self.features[rows] if len(self.features) else self.features
        return Pool(
            labels=self.labels[rows],
            features=features,
            errors=of(self.errors),
            margins=of(self.margins),
            gradient_norms=of(self.gradient_norms),
        )


class Selector(Protocol):
    """A rule that chooses rows: a frozen dataclass in `workloads/data/selectors`."""

    def __hash__(self) -> int:
        """Equal tables choose equal rows."""
        ...

    @property
    def asks(self) -> frozenset[str]:
        """What must be known of the rows, of the names above."""
        ...

    def select(self, pool: Pool, counts: Sequence[int], generator: torch.Generator) -> Tensor:
        """`counts[k]` different rows of each class k: (sum of counts,) int64, class after class.

        Where rows are equally good the one that comes first is taken. Raises `ValueError` for a class with too few rows.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ByClass(ABC):
    """A rule that looks at one class at a time."""

    def __post_init__(self) -> None:  # noqa: B027 - what is mixed in goes on to it
        """Nothing to check here."""

    @property
    def asks(self) -> frozenset[str]:
        return NOTHING

    def select(self, pool: Pool, counts: Sequence[int], generator: torch.Generator) -> Tensor:
        """See `Selector`."""
        chosen = [torch.zeros(0, dtype=torch.int64, device=pool.labels.device)]
        for label, count in enumerate(counts):
            rows = (pool.labels == label).nonzero().squeeze(1)
            if count > len(rows):
                raise ValueError(f"class {label} has {len(rows)} training rows; {count} are wanted")
            if count:
                chosen.append(rows[self.of_class(pool.part(rows), count, generator).to(rows.device)])
        return torch.cat(chosen)

    @abstractmethod
    def of_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        """`count` different places in a pool of one class, (count,) int64; 1 <= count <= its rows."""


@dataclass(frozen=True, kw_only=True)
class ByHardness(ByClass):
    """A rule that sorts the rows of a class by how hard they are.

    keep: the hardest rows, as published for keeping a large share, or the easiest, which serve better where few are kept.
    skip: share of the class's rows that is passed over first at that end, where labels may be wrong; never more than can be.
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
        """(N,), larger for harder rows."""

    def of_class(self, pool: Pool, count: int, generator: torch.Generator) -> Tensor:
        order = self.hardness(pool).sort(descending=self.keep == "hardest", stable=True).indices
        first = min(int(self.skip * len(order)), len(order) - count)
        return order[first : first + count]


def error_norms(pool: Pool) -> Tensor:
    """(N,) EL2N after the last epoch, the mean over networks; between 0 and the root of 2."""
    return pool.errors[:, -1].mean(0)


def area_under_margin(pool: Pool) -> Tensor:
    """(N,) margins summed over epochs, the mean over networks: low for rows whose label other rows speak against."""
    return pool.margins.sum(1).mean(0)


def forgetting_events(pool: Pool) -> Tensor:
    """(N,) times that a row right after one epoch was wrong after the next, summed over networks.

    A row never right counts as forgotten at every epoch, more often than any other can be.
    """
    right = pool.margins > 0
    forgotten = (right[:, :-1] & ~right[:, 1:]).sum(1)
    never = ~right.any(1)
    return torch.where(never, right.shape[1], forgotten).sum(0)
