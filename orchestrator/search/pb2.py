"""PB2's choice of settings: a Gaussian process over settings and time, and the upper confidence bound of their gains.

The kernel is (1 - e)^(|t - t'| / 2) exp(-|x - x'|^2 / (2 l^2)), t the generation and x the numbers of all ranges in [0, 1].
l, e and the noise maximise the likelihood of the gains on a small grid. Pending members reduce the variance and leave the mean.
Gains shrink as training proceeds, so each generation has an unknown constant of its own beside the process: the process learns
only from differences between gains within one generation. The deviation takes these constants as known.

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

from pruneyard.orchestrator.spec.search import Range, Search

LENGTHS = (0.1, 0.2, 0.4, 0.8)  # candidates for l, the length scale
FORGETTING = (0.0, 0.1, 0.3)  # candidates for e, the rate at which older generations count less
NOISES = (0.01, 0.1, 0.5)  # candidates for the noise variance; gains are scaled to variance 1
CANDIDATES = 512  # Sobol points at which the bound is evaluated first; a power of 2, without which SciPy warns
GENERATION_VARIANCE = 100.0  # prior variance of a generation's constant: so large that nothing is assumed
NARROWING = (0.1, 0.03, 0.01)  # standard deviations of the samples around the best candidate, in later rounds
AROUND = 64  # samples in each of these rounds
C1, C2 = 0.2, 0.4  # beta = C1 + max(0, log(C2 n)) for n gains
Array = np.ndarray[Any, np.dtype[np.float64]]


class Bandit:
    """Proposes values for the ranges of a search, for one member after the other."""

    def __init__(
        self,
        search: Search,
        *,
        data: Sequence[tuple[int, Mapping[str, Any], float]],
        pending: Sequence[tuple[int, Mapping[str, Any]]],
    ) -> None:
        """Fits the process.

        data: generation, settings and gain of each evaluated run.
        pending: generation and settings of members whose gains are not known yet.
        """
        self._ranges = {
            key: values for key, values in search.distributions.items() if isinstance(values, Range)
        }
        self._times = np.array([generation for generation, *_ in data], dtype=float)
        self._inputs = self._unit_settings([at for _, at, _ in data])
        gains = np.array([gain for *_, gain in data], dtype=float)
        for time in set(self._times):
            gains[self._times == time] -= gains[self._times == time].mean()
        # The grid of noises assumes variance 1. Equal gains have none, and stay 0.
        self._gains = gains / (gains.std() or 1.0)
        self._pending = list(pending)

    def propose(
        self, generation: int, at: Mapping[str, Any], *, draws: np.random.Generator
    ) -> dict[str, Any]:
        """Returns the values with the largest bound, by key; empty where there is no range. The proposal becomes pending."""
        if not self._ranges:
            return {}
        # Lazily: it takes half a second, which every command that reads a spec would wait for.
        from scipy.stats import qmc

        points = qmc.Sobol(len(self._ranges), scramble=False).random(CANDIDATES)
        # The sequence is the same in every call; the random shift makes the candidates of each member differ.
        points = (points + draws.random(len(self._ranges))) % 1.0
        for deviation in (0.0, *NARROWING):
            best = points[int(np.argmax(self.bound(points, generation)))]
            around = best + deviation * draws.standard_normal((AROUND, len(best)))
            # The best point stays a candidate, so no round makes the bound smaller.
            points = np.vstack([best, np.clip(around, 0.0, 1.0)])
        best = points[int(np.argmax(self.bound(points, generation)))]
        found = {
            key: _from_unit(values, share)
            for (key, values), share in zip(self._ranges.items(), best, strict=True)
        }
        self._pending.append((generation, {**at, **found}))
        return found

    def bound(self, points: Array, generation: int) -> Array:
        """Returns the upper confidence bound of each point: mean gain + sqrt(beta) * standard deviation. Shape (N,).

        points: (N, D) in [0, 1]. The bound is in units of the standard deviation of the gains.
        """
        times = np.full(len(points), float(generation))
        inputs = np.vstack([self._inputs, self._unit_settings([at for _, at in self._pending])])
        when = np.concatenate([self._times, [float(at) for at, _ in self._pending]])
        deviation = self._deviation(inputs, when, points, times)
        beta = C1 + max(0.0, math.log(C2 * max(1, len(self._gains))))
        return self._mean(points, times) + math.sqrt(beta) * deviation

    def _mean(self, points: Array, times: Array) -> Array:
        """Returns the mean at the points (N,), by the evaluated runs."""
        length, forgetting, noise = self._fit_hyperparameters()
        lower = _covariance_cholesky(self._inputs, self._times, length, forgetting, noise)
        across = _kernel(points, times, self._inputs, self._times, length, forgetting)
        mean: Array = across @ cho_solve((lower, True), self._gains)
        return mean

    def _deviation(self, inputs: Array, when: Array, points: Array, times: Array) -> Array:
        """Returns the standard deviation at the points (N,), given gains at all inputs, whatever these gains are.

        The constants of the generations are taken as known: a pending member would else say almost nothing about its neighbours.
        """
        length, forgetting, noise = self._fit_hyperparameters()
        covariance = _kernel(inputs, when, inputs, when, length, forgetting) + noise * np.eye(len(inputs))
        across = _kernel(points, times, inputs, when, length, forgetting)
        # Only the diagonal of the product: the covariance between points is not needed.
        reduced = np.einsum("ij,ji->i", across, cho_solve((cholesky(covariance, lower=True), True), across.T))
        # Rounding can make a variance near 0 negative.
        deviation: Array = np.sqrt(np.clip(1.0 - reduced, 0.0, None))
        return deviation

    def _fit_hyperparameters(self) -> tuple[float, float, float]:
        """Returns length scale, forgetting and noise of the largest likelihood; computed once."""
        if not hasattr(self, "_hyperparameters"):
            grid = list(itertools.product(LENGTHS, FORGETTING, NOISES))
            self._hyperparameters = max(grid, key=lambda numbers: self._log_likelihood(*numbers))
        return self._hyperparameters

    def _log_likelihood(self, length: float, forgetting: float, noise: float) -> float:
        """Returns the log-likelihood of the gains, up to a constant."""
        lower = _covariance_cholesky(self._inputs, self._times, length, forgetting, noise)
        return float(
            # The logarithms of the diagonal sum to half the log-determinant.
            -0.5 * self._gains @ cho_solve((lower, True), self._gains) - np.log(np.diag(lower)).sum()
        )

    def _unit_settings(self, settings: Sequence[Mapping[str, Any]]) -> Array:
        """Returns the settings as positions in their ranges, (N, D) in [0, 1]."""
        rows = [[_to_unit(values, float(at[key])) for key, values in self._ranges.items()] for at in settings]
        return np.array(rows, dtype=float).reshape(len(settings), len(self._ranges))


def _covariance_cholesky(inputs: Array, when: Array, length: float, forgetting: float, noise: float) -> Array:
    """Returns the lower Cholesky factor of the covariance of the gains, (N, N)."""
    covariance = _kernel(inputs, when, inputs, when, length, forgetting)
    # The noise also keeps the matrix positive definite where two members have equal settings.
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
