"""Data of the charts, aggregated over seeds: learning curves, reliability bins, layer densities."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pruneyard.reports.records import Status
from pruneyard.reports.statistics.bins import chance_gaps
from pruneyard.reports.statistics.intervals import half_width

MAX_POINTS = 60
NUM_BINS = 15
RELIABILITY = "reliability"
RELIABILITY_POSITIVE = "reliability_positive"
"""The names of the curves with reliability bins: of the predicted class, and of the positive class of two."""


def completed(labelled: pd.DataFrame) -> pd.DataFrame:
    """Returns `run_key` and `cell` of the completed runs."""
    return labelled.loc[labelled["status"] == Status.COMPLETED, ["run_key", "cell"]]


def learning_curves(history: pd.DataFrame, labelled: pd.DataFrame) -> pd.DataFrame:
    """Returns mean and interval over seeds of every measure: columns `measure, cell, step, epoch, mean, low, high, num`.

    Includes only steps that every completed seed of the cell evaluated.
    """
    own = labelled.loc[labelled["status"] == Status.COMPLETED, ["run_key", "cell", "outer"]]
    frame = history.merge(own, on="run_key")
    frame["lost"] = frame["value"].isna()
    # Runs that rest on the same first run count as one, by their mean; those that lack a step leave it out for all.
    frame["size"] = frame.groupby(["measure", "cell", "step"])["value"].transform("size")
    frame = frame[frame["size"] == frame.groupby(["measure", "cell"])["size"].transform("max")]
    frame = frame.groupby(["measure", "cell", "step", "outer"], sort=False).agg(
        epoch=("epoch", "first"), value=("value", "mean"), lost=("lost", "any")
    ).reset_index()
    grouped = frame.groupby(["measure", "cell", "step"])
    points = grouped.agg(
        epoch=("epoch", "first"),
        mean=("value", "mean"),
        sd=("value", "std"),
        num=("value", "size"),
        lost=("lost", "any"),
    ).reset_index()
    half = half_width(points["sd"], points["num"])
    # pandas' mean skips NaN, so a seed that diverged would silently drop out of it.
    points["mean"] = points["mean"].mask(points["lost"])
    points["low"] = points["mean"] - half
    points["high"] = points["mean"] + half
    return points[["measure", "cell", "step", "epoch", "mean", "low", "high", "num"]]


def thinned(points: pd.DataFrame, max_points: int = MAX_POINTS) -> pd.DataFrame:
    """Returns at most `max_points` evenly spaced points of each curve, with both of its ends."""
    curves = points.groupby(["measure", "cell"])
    place, length = curves.cumcount().to_numpy(), curves["step"].transform("size").to_numpy()
    kept = length <= max_points
    for number in np.unique(length[~kept]):
        chosen = np.linspace(0, number - 1, max_points).round().astype(int)
        kept |= (length == number) & np.isin(place, chosen)
    return points[kept]


def reliability(
    curves: pa.Table, labelled: pd.DataFrame, *, num_bins: int = NUM_BINS, name: str = RELIABILITY
) -> pd.DataFrame:
    """Returns reliability bins pooled over the seeds of a cell: columns `cell, split, x, y, count`.

    name: of the curve, `RELIABILITY` of the predicted class or `RELIABILITY_POSITIVE`.

    A point falls into one of `num_bins` equal bins of confidence, right-closed, by its own mean confidence;
    points of one bin are averaged, weighted by their samples.
    """
    frame = bins_of_runs(curves, labelled, name=name)
    # Right-closed: 0.2 belongs to the bin that ends there. The clip puts 0 into the first bin.
    frame["bin"] = (np.ceil(frame["x"] * num_bins) - 1).clip(0, num_bins - 1)
    # Sums of confidences and of correct samples, so that pooled bins are weighted by samples.
    frame["x"] *= frame["count"]
    frame["y"] *= frame["count"]
    pooled = frame.groupby(["cell", "key", "bin"])[["x", "y", "count"]].sum().reset_index()
    pooled["x"] /= pooled["count"]
    pooled["y"] /= pooled["count"]
    return pooled.rename(columns={"key": "split"})


def bins_of_runs(curves: pa.Table, labelled: pd.DataFrame, *, name: str = RELIABILITY) -> pd.DataFrame:
    """Returns the non-empty bins of each run as recorded: columns `cell, run_key, key` (the split)`, x, y, count`."""
    frame = last_points(curves, name).merge(completed(labelled), on="run_key")
    filled: pd.DataFrame = frame[(frame["count"] > 0) & frame["x"].notna() & frame["y"].notna()].copy()
    return filled


def calibration_errors(bins: pd.DataFrame) -> pd.DataFrame:
    """Returns ECE and noise floor of each run and split from its bins: columns `cell, run_key, key, ece, floor, num`."""
    if bins.empty:
        return pd.DataFrame(columns=["cell", "run_key", "key", "ece", "floor", "num"])
    # All bins at once: a study may have tens of thousands of runs. A mean confidence may lie beyond 1 by rounding.
    floors = chance_gaps(bins["x"].clip(0, 1), bins["count"])
    gaps = bins.assign(ece=bins["count"] * (bins["y"] - bins["x"]).abs(), floor=floors, num=bins["count"].astype("float64"))
    sums = gaps.groupby(["cell", "run_key", "key"], sort=False)[["ece", "floor", "num"]].sum().reset_index()
    sums["ece"] /= sums["num"]
    sums["floor"] /= sums["num"]
    return sums


def layer_densities(curves: pa.Table, labelled: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean final density of each layer over seeds, in model order: columns `cell, layer, density`."""
    frame = last_points(curves, "density").merge(completed(labelled), on="run_key")
    means = frame.groupby(["cell", "key"], sort=False)["y"].mean().reset_index()
    named: pd.DataFrame = means.rename(columns={"key": "layer", "y": "density"})
    return named


def last_points(curves: pa.Table, name: str) -> pd.DataFrame:
    """Returns the points of one curve at each run's last step, from its newest attempt."""
    frame = curves.filter(pc.equal(curves["name"].cast(pa.string()), name)).to_pandas()
    for column in ("run_key", "name", "key"):
        frame[column] = frame[column].astype("str")
    # A resumed run may have recorded its last step in several attempts.
    for order in ("step", "attempt"):
        frame = frame[frame[order] == frame.groupby(["run_key", "key"])[order].transform("max")]
    last: pd.DataFrame = frame.copy()
    return last
