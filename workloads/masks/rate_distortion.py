"""Shares a number of weights among layers so that the sum of their measured distortions is least, by dynamic programming."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNITS = 1000  # units of a budget; a smaller budget is divided exactly

Costs = NDArray[np.float64]


@dataclass(frozen=True)
class DistortionCurve:
    """The measured distortion of the output when one layer keeps some of its weights; between two points it is linear.

    kept: numbers of weights, ascending from at least 1 to the size of the layer.
    distortion: at each of them; usually 0 at the last one.
    """

    kept: tuple[int, ...]
    distortion: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.kept) != len(self.distortion) or sorted(set(self.kept)) != list(self.kept) or self.kept[0] < 1:
            raise ValueError(f"kept is {self.kept} and distortion {self.distortion}; they must be points with rising kept")
        if not all(map(math.isfinite, self.distortion)):
            raise ValueError(f"distortion is {self.distortion}; it must be finite")

    @property
    def size(self) -> int:
        """Number of weights of the layer."""
        return self.kept[-1]

    def at(self, kept: NDArray[np.int64]) -> Costs:
        """Returns the distortion at these numbers of weights."""
        return np.interp(kept, self.kept, self.distortion)


def allocate(curves: Mapping[str, DistortionCurve], total: int) -> dict[str, int]:
    """Returns how many weights each layer keeps, at least one and `total` in sum, with the least sum of distortions.

    The budget is divided into units of `total` // `UNITS` weights, at least one, so the result is the optimum for units of one
    weight, else up to the rounding. What rounding leaves is given to layers with room, in their order. Work and memory are linear
    in the number of layers.
    """
    assert len(curves) <= total <= sum(curve.size for curve in curves.values())
    unit = max(1, total // max(UNITS, len(curves)))
    budget = total // unit
    best, choices = np.zeros(1), []
    for curve in curves.values():
        costs = curve.at(np.minimum(unit * np.arange(1, min(-(-curve.size // unit), budget) + 1), curve.size))
        best, chosen = _with_layer(best, costs, budget)
        choices.append(chosen)
    counts, left = dict[str, int](), budget
    for name, chosen in reversed(list(zip(curves, choices, strict=True))):
        counts[name] = min(int(chosen[left]) * unit, curves[name].size)
        left -= int(chosen[left])
    rest = total - sum(counts.values())
    for name, curve in curves.items():
        added = min(rest, curve.size - counts[name])
        counts[name], rest = counts[name] + added, rest - added
    return {name: counts[name] for name in curves}


def _with_layer(best: Costs, costs: Costs, budget: int) -> tuple[Costs, NDArray[np.int64]]:
    """Returns the least sums of distortions with one more layer, and how many units that layer gets in each of them.

    best: (B + 1,), by the units given so far; costs: of 1, 2, ... units of the layer.
    """
    size = min(budget, len(best) - 1 + len(costs)) + 1
    sums, chosen = np.full(size, np.inf), np.zeros(size, dtype=np.int64)
    for units, cost in enumerate(costs, start=1):
        end = min(size, units + len(best))
        candidates = best[: end - units] + cost
        better = candidates < sums[units:end]
        sums[units:end][better] = candidates[better]
        chosen[units:end][better] = units
    return sums, chosen
