"""A generated click log: categorical fields of different size and importance, and clicks.

The inputs are the codes of the fields, whole numbers in float features `(N, fields)` that are not normalised: mean 0,
standard deviation 1. Popularity falls as a power of the rank (Zipf). The log-odds of a click are a bias, an effect of each
field's code, and products of latent vectors of each two fields, as in a factorisation machine. Effects and vectors of a field
are scaled by its importance, so that a field without importance is noise, however large its table. Class probabilities are
known exactly.

Reference: Rendle 2010, Factorization Machines (ICDM), for the log-odds
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from pruneyard.workloads.data.dataset import Dataset, PublishedDataset, PublishedSource, Split
from pruneyard.workloads.data.input_statistics import Images
from pruneyard.workloads.seeding import stream_seed

__all__ = ["Clicks"]

CARDINALITIES = (2000, 1000, 1000, 500, 200, 100, 50, 10)
IMPORTANCE = (0.0, 1.0, 0.2, 1.0, 0.0, 0.7, 0.5, 0.7)
LATENT = 4  # numbers in a latent vector


@dataclass(frozen=True, kw_only=True)
class Clicks(PublishedSource):
    """Events with independent fields.

    cardinalities: number of codes of each field. importance: standard deviation of the effect of each field.
    popularity: exponent of the rank; 0 makes all codes equally frequent. bias: log-odds of a click without effects.
    """

    cardinalities: tuple[int, ...] = CARDINALITIES
    importance: tuple[float, ...] = IMPORTANCE
    popularity: float = 1.0
    bias: float = -1.0
    num_train: int = 20_000  # val and calib included
    num_test: int = 5_000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cardinalities or not all(1 <= size <= 1 << 24 for size in self.cardinalities):  # codes are exact in float32
            raise ValueError(f"cardinalities is {list(self.cardinalities)}; it must hold numbers in 1 ... {1 << 24}")
        if len(self.importance) != len(self.cardinalities) or not all(0 <= each < np.inf for each in self.importance):
            raise ValueError(f"importance is {list(self.importance)}; it must hold a number of at least 0 for each field")
        if not 0 <= self.popularity < np.inf:
            raise ValueError(f"popularity is {self.popularity}; it must be 0 or more")
        if not np.isfinite(self.bias):
            raise ValueError(f"bias is {self.bias}; it must be finite")
        for name in ("num_train", "num_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def inputs(self) -> tuple[Path, ...]:
        return ()

    def load(self) -> Dataset:
        """Returns the log with features that stay codes when they are normalised."""
        num = len(self.cardinalities)
        return replace(super().load(), mean=(0.0,) * num, std=(1.0,) * num)

    def read(self) -> PublishedDataset:
        """Samples both parts. More rows with the same seed begin with the same events."""
        return PublishedDataset(
            classes=("ignored", "clicked"),
            train=self._part("train", self.num_train),
            test=self._part("test", self.num_test),
        )

    def probabilities(self, images: Images) -> npt.NDArray[np.float64]:
        """Returns p(y | x) of stored codes `(N, fields)`: `(N, 2)` float64."""
        clicked = expit(self._log_odds(images.astype(np.int64)))
        return np.stack([1 - clicked, clicked], axis=1)

    def _part(self, name: str, num: int) -> Split:
        codes = np.stack([self._codes(name, field, num) for field in range(len(self.cardinalities))], axis=1)
        thresholds = self._stream(name, "label").random(num)
        labels = thresholds < expit(self._log_odds(codes))
        return Split.from_arrays(codes.astype(np.float32), labels, pixels=False)

    def _codes(self, part: str, field: int, num: int) -> npt.NDArray[np.int64]:
        """Returns the codes of a field, the most frequent one 0, `(num,)`."""
        shares = np.arange(1, self.cardinalities[field] + 1) ** -float(self.popularity)
        upper = shares.cumsum()
        drawn = self._stream(part, f"codes/{field}").random(num) * upper[-1]
        # Rounding may lift a number to the last bound, behind the last code.
        return np.asarray(np.minimum(np.searchsorted(upper, drawn, side="right"), len(upper) - 1))

    def _log_odds(self, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Returns the log-odds of a click `(N,)`. The products of all pairs are half the square of the sum less the squares."""
        effects, total = np.full(len(codes), float(self.bias)), np.zeros((len(codes), LATENT))
        squares = np.zeros(len(codes))
        for field, (size, importance) in enumerate(zip(self.cardinalities, self.importance, strict=True)):
            drawn = importance * self._stream("effects", str(field)).standard_normal((size, 1 + LATENT))[codes[:, field]]
            vectors = drawn[:, 1:] / LATENT**0.25
            effects += drawn[:, 0]
            total += vectors
            squares += (vectors**2).sum(axis=1)
        return np.asarray(effects + ((total**2).sum(axis=1) - squares) / 2)

    def _stream(self, part: str, purpose: str) -> np.random.Generator:
        return np.random.default_rng(stream_seed(self.seed, f"clicks/{part}/{purpose}"))
