"""PB2's choice of settings: a Gaussian process over settings and time, and the upper confidence bound of what they gain.

The kernel is (1 - e)^(|t - t'| / 2) exp(-|x - x'|^2 / (2 l^2)), t the generation and x the numbers of all ranges in [0, 1].
l, e and the noise are those of a small grid that make the gains most likely. What runs already beside a proposal narrows the
variance and not the mean. Gains fall as training goes on, so each generation has an unknown constant of its own beside the
process: only what settings make of the gains in one generation is learned from.

Reference: J. Parker-Holder et al., "Provably Efficient Online Hyperparameter Optimization with Population-Based Bandits",
NeurIPS 2020 (arXiv:2002.02518); the bound's constants are those of its released code, the bound itself has the deviation where
that code has the variance; the constants of the generations are ours.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, cholesky
from scipy.stats import qmc

from pruneyard.orchestrator.spec.search import Range, Search

LENGTHS = (0.1, 0.2, 0.4, 0.8)


FORGETTING = (0.0, 0.1, 0.3)  # e


NOISES = (0.01, 0.1, 0.5)  # variance, of gains whose own is 1


CANDIDATES = 512


GENERATION_VARIANCE = 100.0  # variance of its constant: as good as unknown


NARROWING = (0.1, 0.03, 0.01)  # deviations of the draws around the best candidate


AROUND = 64


C1, C2 = 0.2, 0.4


Array = np.ndarray[Any, np.dtype[np.float64]]


class Bandit:
    """Proposes numbers for the ranges of a search, one member after the other."""

    def __init__(
        self,
        search: Search,
        *,
        data: Sequence[tuple[int, Mapping[str, Any], float]],
        beside: Sequence[tuple[int, Mapping[str, Any]]],
    ) -> None:
        """data: generation, settings and gain of what has ended; beside: generation and settings of what goes on."""
        self._ranges = {
            key: values for key, values in search.distributions.items() if isinstance(values, Range)
        }
        self._times = np.array([generation for generation, *_ in data], dtype=float)
        self._inputs = self._scaled([at for _, at, _ in data])
        gains = np.array([gain for *_, gain in data], dtype=float)
        for time in set(self._times):
            gains[self._times == time] -= gains[self._times == time].mean()
        self._gains = gains / (gains.std() or 1.0)
        self._beside = list(beside)

    def propose(
        self, generation: int, at: Mapping[str, Any], *, draws: np.random.Generator
    ) -> dict[str, Any]:
        """The ranges' numbers of the largest bound; nothing where there is no range. The next proposal counts on it."""
        if not self._ranges:
            return {}
        points = qmc.Sobol(len(self._ranges), scramble=False).random(CANDIDATES)
        points = (points + draws.random(len(self._ranges))) % 1.0
        for deviation in (0.0, *NARROWING):
            best = points[int(np.argmax(self.bound(points, generation)))]
            around = best + deviation * draws.standard_normal((AROUND, len(best)))
            points = np.vstack([best, np.clip(around, 0.0, 1.0)])
        best = points[int(np.argmax(self.bound(points, generation)))]
        found = {
            key: _from_unit(values, share)
            for (key, values), share in zip(self._ranges.items(), best, strict=True)
        }
        self._beside.append((generation, {**at, **found}))
        return found

    def bound(self, points: Array, generation: int) -> Array:
        """points: (N, D) in [0, 1]; of each the mean gain and sqrt(beta) deviations more, in units of the gains' own."""
        times = np.full(len(points), float(generation))
        mean, _ = self._posterior(self._inputs, self._times, points, times)
        inputs = np.vstack([self._inputs, self._scaled([at for _, at in self._beside])])
        when = np.concatenate([self._times, [float(at) for at, _ in self._beside]])
        _, deviation = self._posterior(inputs, when, points, times)
        beta = C1 + max(0.0, math.log(C2 * max(1, len(self._gains))))
        return mean + math.sqrt(beta) * deviation

    def _posterior(self, inputs: Array, when: Array, points: Array, times: Array) -> tuple[Array, Array]:
        """Mean by the known gains, which come first among the inputs, and deviation by all inputs."""
        length, forgetting, noise = self._likeliest()
        lower = _covariance_cholesky(inputs, when, length, forgetting, noise)
        across = _kernel(points, times, inputs, when, length, forgetting)
        mean = (
            across @ cho_solve((lower, True), self._gains)
            if len(inputs) == len(self._gains)
            else np.zeros(len(points))
        )
        reduced = np.einsum("ij,ji->i", across, cho_solve((lower, True), across.T))
        return mean, np.sqrt(np.clip(1.0 - reduced, 0.0, None))

    def _likeliest(self) -> tuple[float, float, float]:
        """Length, forgetting and noise; worked out once."""
        if not hasattr(self, "_known"):
            grid = list(itertools.product(LENGTHS, FORGETTING, NOISES))
            self._known = max(grid, key=lambda numbers: self._likelihood(*numbers))
        return self._known

    def _likelihood(self, length: float, forgetting: float, noise: float) -> float:
        """The logarithm, up to a constant."""
        lower = _covariance_cholesky(self._inputs, self._times, length, forgetting, noise)
        return float(
            -0.5 * self._gains @ cho_solve((lower, True), self._gains) - np.log(np.diag(lower)).sum()
        )

    def _scaled(self, settings: Sequence[Mapping[str, Any]]) -> Array:
        """(N, D), each number where it stands in its range."""
        rows = [[_to_unit(values, float(at[key])) for key, values in self._ranges.items()] for at in settings]
        return np.array(rows, dtype=float).reshape(len(settings), len(self._ranges))


def _covariance_cholesky(inputs: Array, when: Array, length: float, forgetting: float, noise: float) -> Array:
    """The Cholesky factor of the gains' covariance."""
    covariance = _kernel(inputs, when, inputs, when, length, forgetting)
    covariance += GENERATION_VARIANCE * (when[:, None] == when[None, :]) + noise * np.eye(len(inputs))
    lower: Array = cholesky(covariance, lower=True)
    return lower


def _kernel(one: Array, when: Array, other: Array, then: Array, length: float, forgetting: float) -> Array:
    distance = ((one[:, None, :] - other[None, :, :]) ** 2).sum(axis=2)
    apart = np.abs(when[:, None] - then[None, :])
    kernel: Array = (1.0 - forgetting) ** (apart / 2) * np.exp(-distance / (2 * length**2))
    return kernel


def _to_unit(values: Range, number: float) -> float:
    if values.log:
        return math.log(number / values.low) / math.log(values.high / values.low)
    return (number - values.low) / (values.high - values.low)


def _from_unit(values: Range, share: float) -> Any:
    if values.log:
        return values.rounded(values.low * (values.high / values.low) ** share)
    return values.rounded(values.low + share * (values.high - values.low))
