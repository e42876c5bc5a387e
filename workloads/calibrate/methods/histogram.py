"""Histogram binning: replaces a probability by the frequency of its class in the same bin of calibration rows.

Reference: Zadrozny and Elkan 2001, Obtaining calibrated probability estimates from decision trees and naive Bayesian
classifiers

Every class is binned one-vs-rest, and rows are then scaled to sum to 1. Bins are right-closed and of equal mass by default
(equal probabilities share a bin, so there may be fewer bins than requested, and none is empty). With `equal_mass: false` they
have equal width, and an empty bin returns its midpoint. A bin without the class returns 0, so the uniform distribution is
mixed in with weight 1 / (N + C).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels, PostHoc
from pruneyard.workloads.calibrate.one_vs_rest import distribution, probabilities_of, smallest_probability
from pruneyard.workloads.calibrate.step_maps import (
    Steps,
    concatenated,
    counts_in,
    equal_mass_edges,
    midpoints,
    steps_at,
)
from pruneyard.workloads.plugins import Settings

__all__ = ["Histogram"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedSteps(Fitted):
    """One step function per class, concatenated; the edges of class k start at `edges_from[k]`."""

    edges: Floats
    edges_from: NDArray[np.int64]  # (C + 1,)
    values: Floats
    values_from: NDArray[np.int64]  # (C + 1,)
    uniform_share: Floats  # ()

    @classmethod
    def of(cls, steps: list[Steps], uniform_share: float) -> "FittedSteps":
        """Creates the calibrator from one step function per class."""
        edges, edges_from = concatenated([each.edges for each in steps])
        values, values_from = concatenated([each.values for each in steps])
        return cls(
            num_classes=np.array(len(steps)),
            edges=edges,
            edges_from=edges_from,
            values=values,
            values_from=values_from,
            uniform_share=np.array(uniform_share),
        )

    def _map(self, logits_MC: Floats) -> Floats:
        p_MC = probabilities_of(logits_MC)
        for k, p_M in enumerate(p_MC.T):
            edges = self.edges[self.edges_from[k] : self.edges_from[k + 1]]
            values = self.values[self.values_from[k] : self.values_from[k + 1]]
            p_MC[:, k] = steps_at(p_M, edges, values)
        return distribution(p_MC, float(self.uniform_share))


@dataclass(frozen=True, kw_only=True)
class Histogram(PostHoc):
    """Histogram binning, one-vs-rest for every class."""

    num_bins: int = 15
    equal_mass: bool = True

    becomes: ClassVar[type[Fitted]] = FittedSteps
    examples: ClassVar[tuple[Settings, ...]] = ({}, {"equal_mass": False})

    def __post_init__(self) -> None:
        if self.num_bins < 1:
            raise ValueError(f"num_bins is {self.num_bins}; it must be 1 or more")

    @property
    def keeps_argmax(self) -> bool:
        """False: classes are binned separately, and probabilities of one bin become equal."""
        return False

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedSteps:
        p_NC = probabilities_of(logits_NC)
        steps = [self._steps(p_N, (labels_N == k).astype(np.float64)) for k, p_N in enumerate(p_NC.T)]
        return FittedSteps.of(steps, smallest_probability(*p_NC.shape))

    def _steps(self, p_N: Floats, outcomes_N: Floats) -> Steps:
        order = np.argsort(p_N, kind="stable")
        equal_width = np.arange(1, self.num_bins) / self.num_bins
        edges = equal_mass_edges(p_N[order], self.num_bins) if self.equal_mass else equal_width
        counts, positives = counts_in(p_N[order], outcomes_N[order], edges)
        # `where` evaluates both sides, so empty bins are divided by 1.
        values = np.where(counts > 0, positives / np.maximum(counts, 1), midpoints(edges))
        return Steps(edges=edges, values=values)
