"""Tests and intervals for paired differences: is one setting better than another over the seeds that both have.

Axis legend: S = pairs, one difference for each seed that both settings have.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from pruneyard.reports.statistics.intervals import Floats, half_width

MAX_EXACT = 16  # pairs up to which all sign patterns are counted; there are 65,536 of them
MAX_SEEDS = 10_000


def t_test(differences: npt.ArrayLike) -> float:
    """Returns the two-sided p-value of the paired t test that the mean of `differences: (S,)` is 0; NaN for fewer than two.

    Equal differences other than 0 have no spread, so the test says nothing about them: NaN. If all are 0, p is 1.
    Reference: Student, "The probable error of a mean", Biometrika 1908.
    """
    values_S = _checked(differences)
    if len(values_S) < 2:
        return math.nan
    sd = values_S.std(ddof=1)
    if sd <= 1e-12 * np.abs(values_S).max():  # rounding of equal differences
        return 1.0 if not values_S.any() else math.nan
    return float(2 * special.stdtr(len(values_S) - 1, -abs(values_S.mean()) / (sd / math.sqrt(len(values_S)))))


def sign_flip_test(differences: npt.ArrayLike, *, generator: np.random.Generator, num_draws: int = 20_000) -> float:
    """Returns the two-sided p-value of the sign-flip permutation test that `differences: (S,)` are symmetric around 0.

    It assumes no normal distribution. Up to `MAX_EXACT` pairs all 2^S patterns of signs are counted, so p is at least 2 / 2^S:
    three seeds cannot give less than 0.25. With more pairs, `num_draws` random patterns and the observed one are counted.
    Reference: Fisher, The Design of Experiments (1935), section 21; Phipson and Smyth, "Permutation p-values should never be
    zero", 2010.
    """
    values_S = _checked(differences)
    num = len(values_S)
    if num == 0:
        return math.nan
    observed = abs(values_S.sum())
    tolerance = 1e-12 * np.abs(values_S).sum()  # sums of the same values in another order may differ by rounding
    if num <= MAX_EXACT:
        patterns = (np.arange(2**num)[:, None] >> np.arange(num)) & 1
        return float((np.abs((1 - 2 * patterns) @ values_S) >= observed - tolerance).mean())
    flips = generator.integers(0, 2, size=(num_draws, num))
    as_far = (np.abs((1 - 2 * flips) @ values_S) >= observed - tolerance).sum()
    return float((as_far + 1) / (num_draws + 1))


def equivalence_test(differences: npt.ArrayLike, *, margin: float) -> float:
    """Returns the p-value of two one-sided t tests that the mean of `differences: (S,)` lies within (-margin, margin).

    A small p is evidence of equivalence; a large one is no evidence of a difference. NaN for fewer than two pairs.
    Reference: Schuirmann, "A comparison of the two one-sided tests procedure", J. Pharmacokinetics and Biopharmaceutics 1987.
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin}; it must be above 0")
    values_S = _checked(differences)
    num = len(values_S)
    if num < 2:
        return math.nan
    mean, error = values_S.mean(), values_S.std(ddof=1) / math.sqrt(num)
    if error == 0:  # equal differences: the t statistics are infinite, of one sign or the other
        return 0.0 if abs(mean) < margin else 1.0
    return float(max(special.stdtr(num - 1, -(mean + margin) / error), special.stdtr(num - 1, (mean - margin) / error)))


def seeds_for_half_width(sd: float, target: float, *, level: float = 0.95) -> int | None:
    """Returns the least number of pairs whose t interval has a half width below `target`, if their deviation is `sd`.

    Returns None if more than `MAX_SEEDS` would be needed. It assumes that the deviation stays what it is, which a few seeds
    estimate badly, so take it as an order of magnitude.
    """
    if sd < 0 or not target > 0:
        raise ValueError(f"sd is {sd} and target {target}; sd must be at least 0 and target above 0")
    counts = np.arange(2, MAX_SEEDS + 1)
    enough = np.flatnonzero(half_width(sd, counts, level=level) < target)
    return int(counts[enough[0]]) if len(enough) else None


def seeds_to_separate(differences: npt.ArrayLike, *, level: float = 0.95) -> int | None:
    """Returns the number of pairs at which the t interval of `differences: (S,)` would exclude 0; None if it never would.

    The mean and the deviation are assumed to stay what they are. Fewer than two pairs give None.
    """
    values_S = _checked(differences)
    if len(values_S) < 2 or values_S.mean() == 0:
        return None
    return seeds_for_half_width(float(values_S.std(ddof=1)), float(abs(values_S.mean())), level=level)


def all_pairs(p_values: npt.ArrayLike, *, num_pairs: int) -> Floats:
    """Returns `p_values: (N,)` corrected for all `num_pairs` pairs that might have been compared (Bonferroni); NaN stays NaN.

    It serves comparisons with the setting that looked best: that choice picks N of the pairs. The chance to call any of them
    different where none is remains at most the level, also where the choice was made by the values that are compared.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or ((values < 0) | (values > 1)).any():
        raise ValueError("p_values must be one-dimensional and lie in [0, 1]")
    if num_pairs < len(values):
        raise ValueError(f"num_pairs is {num_pairs}; it must be at least the number of p_values, {len(values)}")
    return np.minimum(values * num_pairs, 1.0)


def holm(p_values: npt.ArrayLike) -> Floats:
    """Returns `p_values: (N,)` corrected for all comparisons of the family; NaN, a comparison that was not made, stays NaN.

    With the corrected values, the chance to reject any true hypothesis of the family is at most the level.
    Reference: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or ((values < 0) | (values > 1)).any():
        raise ValueError("p_values must be one-dimensional and lie in [0, 1]")
    known = np.flatnonzero(~np.isnan(values))
    ascending = known[np.argsort(values[known], kind="stable")]
    # The smallest p counts for all N comparisons, the next for the N - 1 left, ... ; the running maximum keeps their order.
    steps = values[ascending] * np.arange(len(ascending), 0, -1)
    corrected = np.full_like(values, np.nan)
    corrected[ascending] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(steps) else steps
    return corrected


def _checked(differences: npt.ArrayLike) -> Floats:
    values_S = np.asarray(differences, dtype=np.float64)
    if values_S.ndim != 1 or not np.isfinite(values_S).all():
        raise ValueError("differences must be one-dimensional and finite: leave out seeds that one side lacks")
    return values_S
