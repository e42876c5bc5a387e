"""Means and covariances of features and Mahalanobis distances, in float64 and in blocks of rows.

Dimensions: N rows, K classes, d features.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from pruneyard.workloads.calibrate.evidence import AsGiven, Floats, blocks

EPSILON = float(np.finfo(np.float64).eps)


def class_means(features: AsGiven, labels: NDArray[np.int64], num_classes: int) -> Floats:
    """Returns class means (K, d). Raises `ValueError` for a class with fewer than 2 rows."""
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() < 2:
        smallest = int(counts.argmin())
        raise ValueError(f"class {smallest} has {counts[smallest]} training samples; it needs at least 2")
    sums = np.zeros((num_classes, features.shape[1]))
    for rows in blocks(len(features)):
        # `sums[labels] += ...` would add only one row of each class.
        np.add.at(sums, labels[rows], features[rows].astype(np.float64))
    return sums / counts[:, None]


def scatter(features: AsGiven, centres: Floats, which: NDArray[np.int64] | None = None) -> Floats:
    """Returns the mean over rows of (h - c)(h - c)', (d, d); c is row `which: (N,)` of `centres: (K, d)`, or the only one."""
    total = np.zeros((features.shape[1],) * 2)
    for rows in blocks(len(features)):
        centred = features[rows].astype(np.float64) - (centres[which[rows]] if which is not None else centres)
        total += centred.T @ centred
    return total / len(features)


def overall_mean(features: AsGiven) -> Floats:
    """Returns the mean (d,), summed in float64."""
    return np.asarray(features.mean(axis=0, dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """A covariance S, stored as its lower Cholesky factor (d, d)."""

    factor: Floats

    @classmethod
    def of(cls, covariance: Floats, *, shrinkage: float) -> "Ellipsoid":
        """Factorises the shrunk covariance (1 - s) S + s (tr S / d) I, which keeps the trace and is regular for s > 0.

        Units without variance (such as dead ones) make S singular; with shrinkage their variance is s times the mean variance.
        Raises `ValueError` for features without any variance, and for a singular S at s = 0.
        """
        width = len(covariance)
        mean_variance = float(np.trace(covariance)) / width
        if not mean_variance > 0:
            raise ValueError("the training features have no variance around their means")
        shrunk = (1 - shrinkage) * covariance + shrinkage * mean_variance * np.eye(width)
        try:
            factor: Floats = np.asarray(np.linalg.cholesky(shrunk), dtype=np.float64)
        except np.linalg.LinAlgError:
            # Zeros fail the next check, so both cases raise the same error.
            factor = np.zeros((width, width))
        # Rounding may let Cholesky succeed for a singular matrix.
        if np.diag(factor).min() ** 2 <= width * EPSILON * mean_variance:
            raise ValueError(
                f"shrinkage is {shrinkage}, for which the covariance of {width} features is singular; choose a larger value"
            )
        return cls(factor=factor)

    @property
    def log_determinant(self) -> float:
        return float(2 * np.log(np.diag(self.factor)).sum())

    def squared_distances(self, features: AsGiven, centres: Floats) -> Floats:
        """Returns (h - m)' S^-1 (h - m), (N, K), from `features: (N, d)` to every m of `centres: (K, d)`."""
        origin = centres.mean(axis=0)  # differences of squares lose fewest digits near the centres
        centred = solve_triangular(self.factor, (centres - origin).T, lower=True).T
        found = np.empty((len(features), len(centres)))
        for rows in blocks(len(features)):
            shifted = features[rows].astype(np.float64) - origin
            white = solve_triangular(self.factor, shifted.T, lower=True).T
            squares = (white**2).sum(axis=1)[:, None] + (centred**2).sum(axis=1)
            # |a|^2 + |b|^2 - 2 ab may round below 0.
            found[rows] = np.maximum(squares - 2 * white @ centred.T, 0)
        return found


def check_shrinkage(shrinkage: float) -> None:
    """Raises `ValueError` for a shrinkage outside [0, 1]."""
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage is {shrinkage}; it must lie in [0, 1]")
