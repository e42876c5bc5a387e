"""A space of settings with a distance: samples of it, uniform and near others, and which of its points lie far apart."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruneyard.orchestrator.spec.search import Choices, Range

Point = Mapping[str, Any]
"""The place of keys in a space, as the journals of searches hold it: the number of a range, or the index of a choice."""

BELOW_ONE = 1 - 2**-53  # the largest number below 1


@dataclass(frozen=True)
class Space:
    """The distributions of a search. A point may lack keys: those that its tables do not have."""

    distributions: Mapping[str, Range | Choices]

    @property
    def free_keys(self) -> list[str]:
        """Returns the keys that have more than one value."""
        return [key for key, values in self.distributions.items() if isinstance(values, Range) or len(values.choices) > 1]

    def sample(self, generator: np.random.Generator) -> dict[str, Any]:
        """Returns a uniform sample."""
        return {key: _place(values, float(generator.random())) for key, values in self.distributions.items()}

    def distance(self, a: Point, b: Point) -> float:
        """Returns the mean distance over the free keys, in [0, 1].

        For a range it is the difference of the quantiles, for a choice 0 or 1; it is 1 for a key that only one of them has.
        """
        keys = self.free_keys
        return math.fsum(self._distance(key, a, b) for key in keys) / len(keys) if keys else 0.0

    def _distance(self, key: str, a: Point, b: Point) -> float:
        if key not in a or key not in b:
            return float((key in a) != (key in b))
        values = self.distributions[key]
        if isinstance(values, Choices):
            return float(a[key] != b[key])
        return abs(quantile_of(values, a[key]) - quantile_of(values, b[key]))

    def near(self, center: Point, radius: float, generator: np.random.Generator) -> dict[str, Any]:
        """Returns a sample at a distance of at most `radius` from a point, over the keys that the point has.

        Choices are sampled anew in a random order as long as the radius allows another value; ranges share what is left.
        """
        point, left = self.sample(generator), radius * len(self.free_keys)
        own = [key for key in self.free_keys if key in center]
        ranges = [key for key in own if isinstance(self.distributions[key], Range)]
        for place in generator.permutation(len(own)):
            key = own[place]
            if key not in ranges:
                if left < 1:
                    point[key] = center[key]
                left -= point[key] != center[key]
        for key in ranges:
            values, width = self.distributions[key], min(1.0, max(0.0, left) / len(ranges))
            assert isinstance(values, Range)
            middle = quantile_of(values, center[key])
            low, high = max(0.0, middle - width), min(1.0, middle + width)
            drawn = values.quantile(min(low + (high - low) * float(generator.random()), BELOW_ONE))
            # Whole numbers and rounded ones may lie a little farther away.
            point[key] = drawn if abs(quantile_of(values, drawn) - middle) <= width else center[key]
        return point

    def changed(self, point: Point, chance: float, generator: np.random.Generator) -> dict[str, Any]:
        """Returns the point with keys sampled anew: one for certain, and every other one with this chance."""
        fresh, keys = self.sample(generator), self.free_keys
        certain = keys[int(generator.integers(len(keys)))] if keys else ""
        kept = {key for key in keys if float(generator.random()) >= chance} - {certain}
        return {key: point[key] if key in kept and key in point else fresh[key] for key in fresh}


def quantile_of(values: Range, value: float) -> float:
    """Returns the quantile of a value, in [0, 1]: the inverse of `Range.quantile`."""
    low, high = (values.low - 0.5, values.high + 0.5) if values.int else (values.low, values.high)
    share = math.log(value / low) / math.log(high / low) if values.log else (value - low) / (high - low)
    return min(max(share, 0.0), 1.0)


def _place(values: Range | Choices, share: float) -> Any:
    return int(share * len(values.choices)) if isinstance(values, Choices) else values.quantile(share)


def farthest(points: Sequence[Point], number: int, distance: Callable[[Point, Point], float]) -> list[int]:
    """Returns the places of `number` points: the first, then greedily the one whose nearest chosen point is farthest.

    Of equally far points the first one is taken. Reference: T. F. Gonzalez, 1985, for the traversal.
    """
    chosen: list[int] = []
    nearest = [math.inf] * len(points)
    while len(chosen) < min(number, len(points)):
        place = max((i for i in range(len(points)) if i not in chosen), key=lambda i: (nearest[i], -i))
        chosen.append(place)
        nearest = [min(old, distance(points[place], point)) for old, point in zip(nearest, points, strict=True)]
    return chosen
