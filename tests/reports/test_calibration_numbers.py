"""The numbers of the section on calibration, computed again from the Parquet files by plain loops and exact sums."""

import itertools
import json
import math
import re
import statistics

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_study import metric, record
from recomputed import agrees, estimate
from scipy import stats
from test_printed_numbers import Tables

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.page import write_page
from pruneyard.reports.records import CurveRow
from pruneyard.reports.store import Store

GAIN = {"none": 0.0, "temperature": 0.05, "isotonic": 0.01}
COLUMNS = {
    "NLL": "test/nll",
    "ECE (15 bins)": "test/ece",
    "noise floor of ECE": "test/ece_floor",
    "smooth ECE": "test/ece_smooth",
    "accuracy": "test/accuracy",
    "AURC": "test/aurc",
}
BINS = ((0.95, 0.9, 80), (0.55, 0.5, 20))  # confidence, accuracy, samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes four networks and three calibrators on each, with OOD detection and prediction sets."""
    path = tmp_path_factory.mktemp("calibration")
    store, rng = Store(RunFolder(path)), np.random.default_rng(3)
    parent = {"kind": "sparse", "method": {"name": "dense"}}
    for seed in range(4):
        store.write(record(f"p{seed}", seed=seed, stage="train", method="dense", spec_json=json.dumps(parent)), [metric(0.9)], [])
        base = 0.4 + 0.05 * rng.standard_normal()
        for name, gain in GAIN.items():
            spec = {"input": {"runs": parent}, "method": {"name": name}, "sets": [{"name": "aps", "alpha": 0.1}]}
            run = record(
                f"c{seed}{name}", seed=seed, stage="judge", kind="calibrate", method=name, parent_key=f"p{seed}",
                spec_json=json.dumps(spec),
            )  # fmt: skip
            values = {
                "nll": base - gain + 0.004 * rng.standard_normal(),
                "ece": 0.05 + 0.01 * rng.random(),
                "ece_floor": 0.02 + 0.001 * rng.random(),
                "ece_smooth": 0.04 + 0.01 * rng.random(),
                "accuracy": 0.9 + 0.01 * rng.random(),
                "aurc": 0.01 + 0.001 * rng.random(),
            }
            rows = [metric(value, name=measure) for measure, value in values.items()]
            rows += [metric(values["nll"] + 0.01, name="nll", split="val")]
            rows += [metric(0.8 + 0.05 * rng.random(), name=measure, split="ood.far") for measure in ("auroc", "fpr95")]
            rows += [metric(0.9 + 0.02 * rng.random(), name="coverage", split="sets@aps")]
            rows += [metric(1.5 + 0.1 * rng.random(), name="set_size", split="sets@aps")]
            curves = [CurveRow(name="reliability", step=10, key="test", x=x, y=y, count=num) for x, y, num in BINS]
            store.write(run, rows, curves)
    return path


@pytest.fixture(scope="module")
def text(folder):
    return write_page([folder], folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def values(folder):
    """Returns the final values of the calibrate runs by calibrator and measure, in the order of seeds."""
    runs = {row["run_key"]: row for row in pq.read_table(folder / "results" / "runs").to_pylist()}
    found = {}
    ordered = sorted(pq.read_table(folder / "results" / "metrics").to_pylist(), key=lambda row: runs[row["run_key"]]["seed"])
    for row in ordered:
        if (run := runs[row["run_key"]])["kind"] == "calibrate":
            found.setdefault((run["method"], f"{row['split']}/{row['name']}"), []).append(row["value"])
    return found


def table(text, first, second):
    """Returns the rows of the table whose header begins with these columns."""
    reader = Tables()
    reader.feed(text)
    rows = reader.found["Calibration and uncertainty"]
    start = next(place for place, row in enumerate(rows) if row[:2] == [first, second])
    return [dict(zip(rows[start], row, strict=True)) for row in rows[start + 1 : start + 4]]


def is_estimate(printed, own):
    mean, half = estimate(own)
    number, spread = printed.split(" ± ")
    return agrees(number, mean) and agrees(spread, half)


def test_every_number_of_the_table_of_calibrators(text, values):
    rows = table(text, "calibrator", "seeds")
    assert {row["calibrator"] for row in rows} == set(GAIN)
    for row in rows:
        name = row["calibrator"]
        assert (row["seeds"], row["samples"]) == ("4", "100")
        for title, measure in COLUMNS.items():
            own, plain = values[name, measure], values["none", measure]
            printed, half, further = re.fullmatch(r"(\S+) ± ([\d.]+)(.*)", row[title]).groups()
            # The difference to none follows the half width directly, in a line of its own.
            if measure != "test/ece_floor" and name != "none":
                half, sign, rest = re.fullmatch(r"([\d.]+?)([+−])(.*)", f"{half}{further}").groups()  # noqa: RUF001
                differences = [one - other for one, other in zip(own, plain, strict=True)]
                assert is_estimate(f"{'-' if sign != '+' else ''}{rest}", differences), (name, title)
            assert is_estimate(f"{printed} ± {half}", own), (name, title)


def test_every_number_of_detection_and_of_prediction_sets(text, values):
    for row in table(text, "calibrator", "score"):
        assert (row["seeds"], row["in-distribution samples"]) == ("4", "100")
        for title, name in (("far AUROC", "auroc"), ("far FPR95", "fpr95")):
            assert is_estimate(row[title], values[row["calibrator"], f"ood.far/{name}"])
    for row in table(text, "calibrator", "conformal rule"):
        assert (row["seeds"], row["samples"], row["target coverage"]) == ("4", "100", "0.9")
        assert is_estimate(row["coverage"], values[row["calibrator"], "sets@aps/coverage"])
        assert is_estimate(row["mean set size"], values[row["calibrator"], "sets@aps/set_size"])


def test_the_verdicts_on_calibrators(text, values):
    """Each of the four comparisons with none by SciPy, corrected by Holm; the consistency test by all outcomes of both bins."""
    names = [(name, measure) for measure in ("test/nll", "test/ece") for name in ("temperature", "isotonic")]
    p_values = [stats.ttest_rel(values[name, measure], values["none", measure]).pvalue for name, measure in names]
    order = sorted(range(4), key=p_values.__getitem__)
    corrected, largest = {}, 0.0
    for rank, place in enumerate(order):
        largest = corrected[names[place]] = max(largest, min(1.0, (4 - rank) * p_values[place]))
    gains = {key: statistics.fmean(values["none", key[1]]) - statistics.fmean(values[key]) for key in names}
    is_better = {key: p_value < 0.05 and gains[key] > 0 for key, p_value in corrected.items()}
    winners = [name for name in ("temperature", "isotonic") if is_better[name, "test/nll"]]
    assert "temperature" in winners  # planted
    sentence = re.search(r"Test NLL is better than with none for ([^(]*) \(paired by run, Holm over 4 comparisons\)", text)
    assert all((name in sentence[1]) == is_better[name, "test/nll"] for name in ("temperature", "isotonic"))
    assert not any(is_better[name, "test/ece"] for name in ("temperature", "isotonic"))
    assert "Nothing beats none in test ECE (paired by run, Holm over 4 comparisons)" in text

    observed = sum(abs(y - x) * num for x, y, num in BINS)
    chance = 0.0
    (x_one, _, num_one), (x_two, _, num_two) = BINS
    for one, two in itertools.product(range(num_one + 1), range(num_two + 1)):
        if abs(one - x_one * num_one) + abs(two - x_two * num_two) >= observed - 1e-9:
            chance += stats.binom.pmf(one, num_one, x_one) * stats.binom.pmf(two, num_two, x_two)
    # Twice the median of runs with equal bins, then Holm over three calibrators.
    expected = min(1.0, 3 * min(1.0, 2 * chance))
    found = re.search(r"No evidence of miscalibration for any of the 3: .* p ([=≥]) ([\d.]+), Holm", text)
    deviation = 6 * math.sqrt(chance * (1 - chance) / 2_000)
    assert float(found[2]) == pytest.approx(expected, abs=5 * deviation)
    assert found[1] == ("=" if float(found[2]) == 1 else "≥")


def test_the_range_of_the_headline(text, values):
    printed = re.search(r'class="headline">(.*?)</p>', text)[1]
    assert printed.startswith("16 of 16 runs completed in 4 settings.")
    assert agrees(re.search(r"Mean test accuracy is ([\d.]+)", printed)[1], statistics.fmean([0.9] * 4))
