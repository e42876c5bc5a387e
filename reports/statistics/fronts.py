"""Pareto fronts of several objectives, and the hypervolume that a front dominates.

Axis legend: N = points, D = objectives; every objective is a cost, so smaller is better.
"""

import numpy as np
import numpy.typing as npt

from pruneyard.reports.statistics.intervals import Floats


def on_front(costs: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Returns which of `costs: (N, D)` no other point dominates: `(N,)`.

    A point dominates another if it is at most as costly in all objectives and less costly in one. Points with a NaN are on no
    front and dominate nothing.
    """
    costs_ND = np.asarray(costs, dtype=np.float64)
    if costs_ND.ndim != 2:
        raise ValueError(f"costs have shape {costs_ND.shape}; they must have one row per point and one column per objective")
    known = np.isfinite(costs_ND).all(axis=1)
    # Comparisons with NaN are False, so without `known` every point that lacks a value would be on the front.
    is_dominated = [bool((known & (costs_ND <= row).all(axis=1) & (costs_ND < row).any(axis=1)).any()) for row in costs_ND]
    front: npt.NDArray[np.bool_] = known & ~np.array(is_dominated, dtype=bool)
    return front


def hypervolume(costs: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Returns the volume between `reference: (D,)` and the points of `costs: (N, D)` that are below it in all objectives.

    Exact, by slices along the last objective; meant for the fronts of a study, with some hundred points and few objectives.
    Reference: Zitzler and Thiele, "Multiobjective evolutionary algorithms: a comparative case study", 1999.
    """
    costs_ND, reference_D = np.asarray(costs, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if costs_ND.ndim != 2 or reference_D.shape != costs_ND.shape[1:]:
        raise ValueError(f"costs have shape {costs_ND.shape}, the reference {reference_D.shape}; it needs a value per objective")
    inside = costs_ND[(costs_ND < reference_D).all(axis=1)]
    return _volume(inside[on_front(inside)], reference_D) if len(inside) else 0.0


def _volume(front_ND: Floats, reference_D: Floats) -> float:
    if len(reference_D) == 1:
        return float(reference_D[0] - front_ND.min())
    ascending = front_ND[np.argsort(front_ND[:, -1], kind="stable")]
    ends = np.append(ascending[1:, -1], reference_D[-1])
    total = 0.0
    for place, (height, end) in enumerate(zip(ascending[:, -1], ends, strict=True), start=1):
        # Between two heights the slice is the volume of all points below it in the other objectives.
        if end > height:
            slice_ND = ascending[:place, :-1]
            total += (end - height) * _volume(slice_ND[on_front(slice_ND)], reference_D[:-1])
    return float(total)
