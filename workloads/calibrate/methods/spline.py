"""Spline calibration: shifts confidences by the slope of a spline through the cumulative calibration gap.

Reference: Gupta et al. 2021, Calibration of Neural Networks using Splines (ICLR, arXiv:2006.12800)

Calibration rows are sorted by confidence s; with t the fraction of rows up to one and h(t) the sum of (correct - s) up
to it over N, a natural cubic spline with `num_knots` equally spaced knots is fitted to h by least squares, and s
becomes s + h'(t). The result is linear in s between calibration rows and constant outside. Rows of equal
confidence share their mean gap and their mean slope. The map need not increase with s.

Our addition: s is the confidence after temperature scaling, because saturated confidences, all 1 in float64, cannot be sorted.

The method defines the largest probability only; this implementation keeps the proportions of the others. A confidence stays
1 / (N + C) away from 0 and 1, and at least as large as its class needs to remain the largest: no prediction changes.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import log_softmax

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels, keeping_argmax
from pruneyard.workloads.calibrate.common_scale import FittedOnCommonScale, OnCommonScale
from pruneyard.workloads.calibrate.one_vs_rest import probabilities_of, smallest_probability

__all__ = ["Spline"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedSpline(FittedOnCommonScale):
    """The map of the largest probability."""

    confidence: Floats  # (S,), distinct, increasing
    calibrated: Floats  # (S,)

    def _map(self, logits_MC: Floats) -> Floats:
        rows_M, winners_M = np.arange(len(logits_MC)), logits_MC.argmax(axis=1)
        top_M = np.interp(probabilities_of(logits_MC)[rows_M, winners_M], self.confidence, self.calibrated)
        others_MC = logits_MC.copy()
        others_MC[rows_M, winners_M] = -np.inf
        others_MC = log_softmax(others_MC, axis=1)
        second_M = np.exp(others_MC.max(axis=1))  # relative to the probability of all other classes
        top_M = np.maximum(top_M, second_M / (1 + second_M))
        # The others share 1 - top in their former proportions.
        log_MC = others_MC + np.log1p(-top_M)[:, None]
        log_MC[rows_M, winners_M] = np.log(top_M)
        return keeping_argmax(log_MC, logits_MC)


@dataclass(frozen=True, kw_only=True)
class Spline(OnCommonScale):
    """Spline calibration of the largest probability."""

    num_knots: int = 6

    becomes: ClassVar[type[Fitted]] = FittedSpline

    def __post_init__(self) -> None:
        if self.num_knots < 3:
            raise ValueError(f"num_knots is {self.num_knots}; it must be 3 or more")

    @property
    def keeps_argmax(self) -> bool:
        """True: see the module docstring."""
        return True

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedSpline:
        if len(labels_N) < self.num_knots:
            raise ValueError(
                f"there are {len(labels_N)} rows; a spline of {self.num_knots} knots needs as many"
            )
        winners_N = logits_NC.argmax(axis=1)
        confidence_N = probabilities_of(logits_NC)[np.arange(len(labels_N)), winners_N]
        distinct, which_N, counts = np.unique(confidence_N, return_inverse=True, return_counts=True)
        gaps = np.bincount(which_N, weights=winners_N == labels_N) / counts - distinct
        # Rows of equal confidence have equal gaps, so the sums do not depend on their order.
        heights_N = np.cumsum(np.repeat(gaps, counts)) / len(labels_N)
        slopes_N = slopes_of_natural_spline(heights_N, num_knots=self.num_knots)
        slopes = np.bincount(np.repeat(np.arange(len(counts)), counts), weights=slopes_N) / counts
        least = smallest_probability(*logits_NC.shape)
        return FittedSpline(
            num_classes=np.array(logits_NC.shape[1]),
            confidence=distinct,
            calibrated=np.clip(distinct + slopes, least, 1 - least),
        )


def slopes_of_natural_spline(heights_N: Floats, *, num_knots: int) -> Floats:
    """Returns slopes at t = 1 / N, 2 / N .. 1 of the least-squares natural cubic spline to heights there and 0 at t = 0.

    Knots are equally spaced over [0, 1].
    """
    t = np.arange(len(heights_N) + 1) / len(heights_N)
    # Column j is the spline that is 1 at knot j and 0 at all others, so every spline is a product with its knot values.
    cardinal = CubicSpline(np.linspace(0, 1, num_knots), np.eye(num_knots), bc_type="natural")
    at_knots = np.linalg.lstsq(cardinal(t), np.concatenate([[0.0], heights_N]), rcond=None)[0]
    return np.asarray(cardinal(t[1:], 1) @ at_knots)
