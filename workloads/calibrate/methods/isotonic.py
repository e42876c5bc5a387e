"""Isotonic regression: a non-decreasing curve of least squared error, by pooling adjacent violators.

Reference: Zadrozny and Elkan 2002; one curve for all classes as in Zhang, Kailkhura and Han 2020, Mix-n-Match
(arXiv:2003.07329)

By default one curve is fitted to all N x C pairs of a probability and whether its class is the label, which preserves
the order of classes; 1e-9 of the probability is added to separate classes on the same step. With `one_vs_rest` every class
has its own curve, and predictions may change. The curve is linear between steps and constant outside the calibration rows.
It can be 0, so the uniform distribution is mixed in with weight 1 / (N + C), and rows are scaled to sum to 1.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels, PostHoc, keeping_argmax
from pruneyard.workloads.calibrate.one_vs_rest import distribution, probabilities_of, smallest_probability
from pruneyard.workloads.calibrate.step_maps import concatenated
from pruneyard.workloads.plugins import Settings

__all__ = ["Isotonic"]

TIE_BREAKER = 1e-9
SMALLEST = 1e-290  # smaller probabilities count as 0: slopes between two of them overflow, and 0 * inf is no number


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedIsotonic(Fitted):
    """One curve, or one per class, concatenated: curve k spans `starts[k]` to `starts[k + 1]`."""

    p: Floats  # ends of steps
    q: Floats  # the curve there
    starts: NDArray[np.int64]  # (2,) or (C + 1,)
    uniform_share: Floats  # ()

    def _map(self, logits_MC: Floats) -> Floats:
        p_MC = _probabilities(logits_MC)
        curves = [slice(*ends) for ends in zip(self.starts[:-1], self.starts[1:], strict=True)]
        if len(curves) == 1:
            q_MC = np.interp(p_MC, self.p, self.q) + TIE_BREAKER * p_MC
            # Softmax may round different logits to equal probabilities, so the winner is taken from the logits.
            q_MC[np.arange(len(q_MC)), logits_MC.argmax(axis=1)] = q_MC.max(axis=1)
            return keeping_argmax(distribution(q_MC, float(self.uniform_share)), logits_MC)
        columns = [
            np.interp(p_M, self.p[curve], self.q[curve]) for curve, p_M in zip(curves, p_MC.T, strict=True)
        ]
        return distribution(np.column_stack(columns), float(self.uniform_share))


@dataclass(frozen=True, kw_only=True)
class Isotonic(PostHoc):
    """Isotonic regression, with one curve for all classes by default."""

    one_vs_rest: bool = False

    becomes: ClassVar[type[Fitted]] = FittedIsotonic
    revision: ClassVar[int] = 2  # saturated rows could become NaN before
    examples: ClassVar[tuple[Settings, ...]] = ({}, {"one_vs_rest": True})

    @property
    def keeps_argmax(self) -> bool:
        """True if one non-decreasing curve is shared by all classes."""
        return not self.one_vs_rest

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedIsotonic:
        p_NC = _probabilities(logits_NC)
        is_label_NC = labels_N[:, None] == np.arange(p_NC.shape[1])
        if self.one_vs_rest:
            curves = [fit_monotone_curve(p_N, hits_N) for p_N, hits_N in zip(p_NC.T, is_label_NC.T, strict=True)]
        else:
            curves = [fit_monotone_curve(p_NC.ravel(), is_label_NC.ravel())]
        p, starts = concatenated([curve[0] for curve in curves])
        q, _ = concatenated([curve[1] for curve in curves])
        share = smallest_probability(*p_NC.shape)
        return FittedIsotonic(
            num_classes=np.array(p_NC.shape[1]), p=p, q=q, starts=starts, uniform_share=np.array(share)
        )


def _probabilities(logits_NC: Floats) -> Floats:
    p_NC = probabilities_of(logits_NC)
    return np.where(p_NC < SMALLEST, 0.0, p_NC)


def fit_monotone_curve(p_N: Floats, outcomes_N: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Returns step ends and values of the non-decreasing curve of least squared error to the outcomes.

    Equal probabilities are pooled first, weighted by their number, and share one value.
    """
    distinct, which_N, counts = np.unique(p_N, return_inverse=True, return_counts=True)
    means = np.bincount(which_N, weights=outcomes_N) / counts
    q = isotonic_regression(means, weights=counts.astype(np.float64)).x
    ends = np.ones(len(q), dtype=bool)
    # Points inside a step are not needed, because the curve is interpolated between its ends.
    ends[1:-1] = (q[1:-1] != q[:-2]) | (q[1:-1] != q[2:])
    return distinct[ends], q[ends]
