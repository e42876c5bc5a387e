"""Means and covariances of features, and distances measured by them, in float64 and block by block of rows.

Dimensions: N rows, K classes, d features.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from pruneyard.workloads.calibrate.evidence import AsGiven, Floats, blocks

EPSILON = float(np.finfo(np.float64).eps)


def class_means(features: AsGiven, labels: NDArray[np.int64], num_classes: int) -> Floats:
    """(K, d). Raises `ValueError` for a class of fewer than 2 rows, of which nothing can be said."""
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() < 2:
        smallest = int(counts.argmin())
        raise ValueError(f"class {smallest} has {counts[smallest]} training rows; it must have at least 2")
    sums = np.zeros((num_classes, features.shape[1]))
    for rows in blocks(len(features)):
        np.add.at(sums, labels[rows], features[rows].astype(np.float64))
    return sums / counts[:, None]


def scatter(features: AsGiven, centres: Floats, which: NDArray[np.int64] | None = None) -> Floats:
    """Mean over rows of (h - c)(h - c)', (d, d); c: the row of `centres: (K, d)` that `which: (N,)` says, or the only one."""
    total = np.zeros((features.shape[1],) * 2)
    for rows in blocks(len(features)):
        apart = features[rows].astype(np.float64) - (centres[which[rows]] if which is not None else centres)
        total += apart.T @ apart
    return total / len(features)


def overall_mean(features: AsGiven) -> Floats:
    """(d,), summed in float64."""
    return np.asarray(features.mean(axis=0, dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """A covariance S as its lower Cholesky factor (d, d)."""

    factor: Floats

    @classmethod
    def of(cls, covariance: Floats, *, shrinkage: float) -> "Ellipsoid":
        """Of (1 - s) S + s (tr S / d) I, which keeps the trace and is regular for s > 0.

        Units that never vary (dead ones, say) make S singular; under shrinkage their variance counts as s times the mean one.
        Raises `ValueError` for features that do not vary at all, and for a singular S at s = 0.
        """
        width = len(covariance)
        mean_variance = float(np.trace(covariance)) / width
        if not mean_variance > 0:
            raise ValueError("the training features do not vary around their means; they must")
        shrunk = (1 - shrinkage) * covariance + shrinkage * mean_variance * np.eye(width)
        try:
            factor: Floats = np.asarray(np.linalg.cholesky(shrunk), dtype=np.float64)
        except np.linalg.LinAlgError:
            factor = np.zeros((width, width))
        if np.diag(factor).min() ** 2 <= width * EPSILON * mean_variance:
            raise ValueError(
                f"shrinkage is {shrinkage}, at which the covariance of {width} features is singular; it must be larger"
            )
        return cls(factor=factor)

    @property
    def log_determinant(self) -> float:
        return float(2 * np.log(np.diag(self.factor)).sum())

    def squared_distances(self, features: AsGiven, centres: Floats) -> Floats:
        """(N, K) of (h - m)' S^-1 (h - m), from `features: (N, d)` to every m of `centres: (K, d)`."""
        origin = centres.mean(axis=0)  # near which squares lose least
        centred = solve_triangular(self.factor, (centres - origin).T, lower=True).T
        found = np.empty((len(features), len(centres)))
        for rows in blocks(len(features)):
            apart = features[rows].astype(np.float64) - origin
            white = solve_triangular(self.factor, apart.T, lower=True).T
            squares = (white**2).sum(axis=1)[:, None] + (centred**2).sum(axis=1)
            found[rows] = np.maximum(squares - 2 * white @ centred.T, 0)
        return found


def check_shrinkage(shrinkage: float) -> None:
    """Raises `ValueError` outside [0, 1]."""
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage is {shrinkage}; it must lie in [0, 1]")
