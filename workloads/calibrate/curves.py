"""The curves that a calibrate job records: reliability diagrams, risk-coverage curves, histograms of OOD scores."""

from collections.abc import Mapping, Sequence

import numpy as np

from pruneyard.workloads.metrics.binning import Reliability
from pruneyard.workloads.metrics.classification import RiskCoverage
from pruneyard.workloads.workload import CurvePoint

CURVE_POINTS = 50  # per risk-coverage curve, and bins per score histogram


def reliability_points(bins: Reliability, *, name: str = "reliability") -> list[CurvePoint]:
    """Returns the non-empty reliability bins of the test split: x confidence, y accuracy, count samples.

    name: of the curve, `reliability` or, for bins of the positive class, `reliability_positive`.
    """
    return [
        CurvePoint(name=name, step=1, key="test", x=float(x), y=float(y), count=int(count))
        for x, y, count in zip(bins.confidence, bins.accuracy, bins.count, strict=True)
        if count
    ]


def risk_points(curve: RiskCoverage) -> list[CurvePoint]:
    """Returns the risk-coverage curve of the test split at evenly spaced coverages; count: samples classified."""
    chosen = np.unique(np.linspace(0, len(curve.risk) - 1, CURVE_POINTS).round().astype(np.int64))
    return [
        CurvePoint(name="risk", step=1, key="test", x=float(curve.coverage[i]), y=float(curve.risk[i]), count=int(i) + 1)
        for i in chosen
    ]


def score_points(scores: Mapping[str, np.ndarray], suffix: str) -> list[CurvePoint]:
    """Returns score histograms over common bins, one per split: x bin centre, y fraction of the split, count samples."""
    every: Sequence[np.ndarray] = list(scores.values())
    # Not the extremes, because a few outliers would stretch all bins; they are counted in the outer bins.
    low, high = np.quantile(np.concatenate(every), [0.001, 0.999])
    edges = np.linspace(low, high if high > low else low + 1.0, CURVE_POINTS + 1)
    points = []
    for split, values in scores.items():
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
        points += [
            CurvePoint(name="score", step=1, key=f"{split}{suffix}", x=float(x), y=count / len(values), count=int(count))
            for x, count in zip((edges[:-1] + edges[1:]) / 2, counts, strict=True)
            if count
        ]
    return points
