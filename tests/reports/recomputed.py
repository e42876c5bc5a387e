"""The results of a folder, read from its Parquet files by plain loops, and checks whether printed texts agree with them."""

import math
import re
import statistics

import pyarrow.parquet as pq
import pytest
from scipy import stats

FACTORS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "s": 1.0, "min": 60.0, "x": 1.0}


class Results:
    """The runs of the Parquet files with their last values, and what independent repetitions make of them."""

    def __init__(self, folder):
        self.runs = {row["run_key"]: row for row in pq.read_table(folder / "results" / "runs").to_pylist()}
        last = {}
        for row in pq.read_table(folder / "results" / "metrics").to_pylist():
            key = (row["run_key"], f"{row['split']}/{row['name']}")
            if key not in last or row["step"] > last[key][0]:
                last[key] = (row["step"], row["value"])
        for (key, measure), (_, value) in last.items():
            self.runs[key][measure] = value
        self.curves = pq.read_table(folder / "results" / "curves").to_pylist()

    def completed(self, **wanted):
        found = [row for row in self.runs.values() if row["status"] == "COMPLETED"]
        return sorted((r for r in found if all(r[k] == v for k, v in wanted.items())), key=lambda row: row["seed"])


def agrees(text, value):
    """Returns whether a printed number is the value, rounded to the digits that are printed."""
    printed, unit = re.fullmatch(r"(-?[\d,]*\.?\d+(?:e-?\d+)?) ?(\w*)", text).groups()
    factor = FACTORS.get(unit, 1.0)
    mantissa, _, exponent = printed.partition("e")
    step = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(printed.replace(",", "")) * factor - value) <= 0.5001 * step * factor + 1e-12


def estimate(values):
    """Returns the mean of the values and half the width of its 95% t interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


def check(text, values):
    """Asserts that a printed mean with its half width, where there are several values, is that of the values."""
    if not values:
        assert text == "n/a"
        return
    found = re.fullmatch(r"(\S+)(?: ± (\S+))?", text)
    if len(values) == 1:
        assert agrees(text, values[0])
        return
    mean, half = estimate(values)
    assert agrees(found[1], mean), (text, mean)
    assert agrees(found[2], half), (text, half)


def check_rounded(text, value):
    """Asserts a number of three significant digits with a unit."""
    number, _, unit = text.removesuffix("x").partition(" ")
    factor = {"µs": 1e-6, "ms": 1e-3, "kB": 1e3, "MB": 1e6}.get(unit) or FACTORS.get(unit, 1.0)
    assert float(number) * factor == pytest.approx(value, rel=0.0051)
