"""Calibration error estimators against the true error, by the number of rows of the estimate.

Rows are those of the oracle (5 classes, one rare, label noise), whose class probabilities are known. Two predictors are
evaluated: the known probabilities themselves, whose true error is 0, and an over-confident one, whose log-probabilities are 1.6
times as large and blurred. The true value of a metric is computed on all rows with the known probability of being right in
place of labels, so only the choice of rows is random. `individual` is the true error row by row, which no metric of confidences
alone can detect. Estimates are means and standard deviations over draws of rows and labels.
Run: python tests/benchmarks/calibration_estimators.py PLOT.svg (or .png, .html). It takes some seconds.
"""

import sys
from collections.abc import Callable

import altair as alt
import numpy as np
import pandas as pd

from pruneyard.workloads.data.sources.oracle import Oracle
from pruneyard.workloads.metrics.binned_errors import (
    debiased_squared_gap,
    largest_gap,
    mean_gap,
    root_mean_square_gap,
)
from pruneyard.workloads.metrics.binning import bin_by_confidence
from pruneyard.workloads.metrics.classification import TopLabel, softmax, true_calibration_error
from pruneyard.workloads.metrics.resampling import noise_floor_of_confidences
from pruneyard.workloads.metrics.truth import true_top_label
from pruneyard.workloads.metrics.unbinned_errors import balance, kolmogorov_smirnov_gap, smooth_gap

ORACLE = Oracle(num_classes=5, dimensions=4, label_noise=0.1, imbalance_ratio=0.1, num_train=100, num_test=200_000)
SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
DRAWS = 20
Measure = Callable[[TopLabel], float]
MEASURES: dict[str, Measure] = {
    "ece": lambda top: mean_gap(bin_by_confidence(top, num_bins=15)),
    "ece, 100 bins": lambda top: mean_gap(bin_by_confidence(top, num_bins=100)),
    "ece_adaptive": lambda top: mean_gap(bin_by_confidence(top, num_bins=15, binning="equal_mass")),
    "ece_smooth": smooth_gap,
    "rmsce": lambda top: root_mean_square_gap(bin_by_confidence(top, num_bins=15)),
    "rmsce_debiased": lambda top: max(debiased_squared_gap(bin_by_confidence(top, num_bins=15)), 0.0) ** 0.5,
    "mce": lambda top: largest_gap(bin_by_confidence(top, num_bins=15)),
    "ks": kolmogorov_smirnov_gap,
    "balance, absolute": lambda top: abs(balance(top)),
}


def predictors(truth: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities `(N, C)` by the name of who predicts them."""
    generator = np.random.default_rng(1)
    blurred = 1.6 * np.log(truth) + 0.5 * generator.normal(size=truth.shape)
    return {"calibrated": truth, "over-confident": softmax(blurred)}


def estimates(exact: TopLabel, num_rows: int) -> pd.DataFrame:
    """Yields one row for each draw and measure; `exact` says how often each prediction is right."""
    found = []
    for draw in range(DRAWS):
        generator = np.random.default_rng((num_rows, draw))
        rows = generator.choice(len(exact), size=num_rows, replace=False)
        correct = generator.random(num_rows) < exact.correct[rows]
        top = TopLabel(confidence=exact.confidence[rows], correct=correct)
        found += [{"n": num_rows, "measure": name, "value": of(top)} for name, of in MEASURES.items()]
        if draw == 0:
            floor = noise_floor_of_confidences(top.confidence).mean
            found.append({"n": num_rows, "measure": "ece_floor", "value": floor})
    return pd.DataFrame(found)


def table(of_one: pd.DataFrame, truths: dict[str, float]) -> str:
    """Means and standard deviations over draws by n, the truth last."""
    grouped = of_one.groupby(["measure", "n"], sort=False)["value"]
    cells = (grouped.mean().map("{:.4f}".format) + " ±" + grouped.std(ddof=0).map("{:.4f}".format)).unstack("n")
    cells["truth"] = [f"{truths[name]:.4f}" if name in truths else "" for name in cells.index]
    return cells.to_string()


def plot(found: pd.DataFrame) -> alt.FacetChart:
    """Draws a panel for each measure: for both predictors mean and standard deviation over draws, and the truth as a rule."""
    base = alt.Chart(found).encode(
        x=alt.X("n:Q", scale=alt.Scale(type="log"), title="rows"), color=alt.Color("predictor:N", title=None)
    )
    spread = base.mark_errorband(extent="stdev", opacity=0.2).encode(y=alt.Y("value:Q", title="error"))
    means = base.mark_line(strokeWidth=1.5).encode(y="mean(value):Q")
    rule = base.mark_rule(strokeDash=[4, 3]).encode(x=alt.X(), y="mean(truth):Q")
    layers = alt.layer(spread, means, rule).properties(width=170, height=110)
    panels = alt.Facet("measure:N", title=None, sort=list(MEASURES))
    return layers.facet(panels, columns=5).resolve_scale(y="independent").configure_legend(orient="bottom")


def main(path: str) -> None:
    """Prints a table for each predictor and writes the plot."""
    images = ORACLE.read().test.images
    truth = ORACLE.probabilities(images)
    parts = []
    for name, predicted in predictors(truth).items():
        exact = true_top_label(predicted, truth)
        truths = {measure: of(exact) for measure, of in MEASURES.items()}
        found = pd.concat([estimates(exact, num_rows) for num_rows in SIZES])
        individual = true_calibration_error(predicted, truth)
        print(f"\n{name}: true individual error {individual:.4f}, mean ± sd of {DRAWS} draws\n{table(found, truths)}")
        parts.append(found.assign(predictor=name, truth=found["measure"].map(truths)))
    plot(pd.concat(parts).dropna(subset="truth")).save(path)
    print(f"\nwrote {path}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: calibration_estimators.py PLOT.svg")
    main(sys.argv[1])
