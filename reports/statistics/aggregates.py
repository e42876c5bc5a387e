"""Aggregates of many scores that a few outliers do not decide, with bootstrap intervals.

Axis legend: S = seeds, T = tasks (data sets, densities, ...); B = bootstrap draws.
Reference: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS 2021.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pruneyard.reports.statistics.intervals import Floats


def interquartile_mean(scores: npt.ArrayLike, *, axis: int | tuple[int, ...] | None = None) -> Floats:
    """Returns the mean of the middle half of the scores, over all axes or those given.

    Of n scores, the lowest and the highest floor(n / 4) are left out.
    """
    values = np.asarray(scores, dtype=np.float64)
    axes = tuple(range(values.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    moved = np.moveaxis(values, axes, range(-len(axes), 0))
    flat = np.sort(moved.reshape(*moved.shape[: moved.ndim - len(axes)], -1), axis=-1)
    cut = flat.shape[-1] // 4  # whole scores, as the trimmed mean that the paper's authors use
    middle: Floats = flat[..., cut : flat.shape[-1] - cut].mean(axis=-1)
    return middle


def stratified_bootstrap(
    scores: npt.ArrayLike,
    statistic: Callable[[Floats], Floats],
    *,
    generator: np.random.Generator,
    level: float = 0.95,
    num_draws: int = 2_000,
) -> tuple[float, float]:
    """Returns the ends of a percentile bootstrap interval of a statistic of `scores: (S, T)`.

    A draw has S scores of each task with replacement, drawn for each task alone, so that every draw has all tasks.

    statistic: maps `(B, S, T)` to `(B,)`.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie in (0, 1)")
    scores_ST = np.asarray(scores, dtype=np.float64)
    if scores_ST.ndim != 2 or len(scores_ST) < 2:
        raise ValueError(f"scores have shape {scores_ST.shape}; they must have two axes, and at least two seeds")
    num_seeds, num_tasks = scores_ST.shape
    rows_BST = generator.integers(0, num_seeds, size=(num_draws, num_seeds, num_tasks))
    found_B = statistic(scores_ST[rows_BST, np.arange(num_tasks)])
    low, high = np.quantile(found_B, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def probability_of_improvement(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Returns the probability that a run of `a: (S,)` scores above one of `b: (R,)`; ties count half.

    It is the statistic of Mann and Whitney's U test divided by S R.
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if not len(left) or not len(right):
        raise ValueError("both sides must have at least one score")
    above = (left[:, None] > right[None, :]).mean()
    ties = (left[:, None] == right[None, :]).mean()
    return float(above + ties / 2)


def performance_profile(scores: npt.ArrayLike, thresholds: npt.ArrayLike) -> Floats:
    """Returns the share of all scores that are above each of `thresholds: (N,)`: `(N,)`.

    Reference: Dolan and Moré, "Benchmarking optimization software with performance profiles", 2002.
    """
    flat = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if not len(flat):
        raise ValueError("there must be at least one score")
    shares: Floats = 1 - np.searchsorted(flat, np.asarray(thresholds, dtype=np.float64), side="right") / len(flat)
    return shares


def nested_variances(scores: npt.ArrayLike) -> Floats:
    """Returns the variance that each level of nested repetitions adds: one per axis of `scores`, the outermost first.

    Axis 0 may be distillations, axis 1 trainings on each, axis 2 evaluations of each; every level has the same number of
    repetitions, at least two. The sum is the variance of one score. Estimates below zero, which chance makes where a level adds
    nothing, are set to zero. Reference: Searle, Casella and McCulloch, Variance Components (1992), chapter 3.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim < 1 or min(values.shape, default=0) < 2:
        raise ValueError(f"scores have shape {values.shape}; every level must have at least two repetitions")
    found = []
    means, mean_square_below = values, 0.0
    for axis in reversed(range(values.ndim)):
        # A mean square estimates that of the level below plus the level's own variance, times the scores of one of its means.
        scores_per_mean = int(np.prod(values.shape[axis + 1 :]))
        mean_square = scores_per_mean * float(means.var(axis=-1, ddof=1).mean())
        found.append(max(0.0, (mean_square - mean_square_below) / scores_per_mean))
        means, mean_square_below = means.mean(axis=-1), mean_square
    return np.array(found[::-1])
