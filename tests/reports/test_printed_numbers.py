"""The numbers that a page prints, computed again from the Parquet files by plain loops and SciPy, without the code of reports."""

import json
import math
import re
import statistics
from html.parser import HTMLParser

import pytest
from made_up_study import write_study
from recomputed import FACTORS, Results, agrees, estimate
from scipy import stats

from pruneyard.reports.page import write_page


class Tables(HTMLParser):
    """Collects the texts of all cells by the heading above their table, and the data of the drawer."""

    def __init__(self):
        super().__init__()
        self.found, self.heading, self.runs = {}, "", None
        self.inside = None

    def handle_starttag(self, tag, attrs):
        if tag in ("h2", "th", "td"):
            self.inside = tag
            self.text = ""
        elif tag == "tr":
            self.found.setdefault(self.heading, []).append([])
        elif tag == "script" and dict(attrs).get("id") == "run-data":
            self.inside = "data"

    def handle_endtag(self, tag):
        if tag == "h2":
            self.heading = self.text
        elif tag in ("th", "td") and self.inside == tag:
            self.found[self.heading][-1].append(self.text)
        if tag in ("h2", "th", "td"):
            self.inside = None

    def handle_data(self, data):
        if self.inside == "data":
            self.runs, self.inside = json.loads(data), None
        elif self.inside:
            self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study") / "out", densities=(0.2, 0.05), evaluations=4, troubles=False)


@pytest.fixture(scope="module")
def page(folder):
    reader = Tables()
    reader.feed(write_page([folder], folder / "report.html").read_text(encoding="utf-8"))
    return reader


@pytest.fixture(scope="module")
def rows(folder):
    """Returns the completed runs, each with its last values by `split/name`."""
    return Results(folder).completed()


def table(page, heading):
    header, *rows = page.found[heading]
    return [dict(zip(header, row, strict=False)) for row in rows if len(row) == len(header)]


def of(rows, method, density):
    found = [row for row in rows if (row["method"], row["density"]) == (method, float(density))]
    return sorted(found, key=lambda row: row["seed"])


def test_every_number_of_the_summary(page, rows):
    measures = {"test accuracy": "test/accuracy", "test NLL": "test/nll", "test ECE": "test/ece"}
    measures["test Brier score"] = "test/brier"
    costs = {"active parameters": "num_active", "training FLOPs": "train_flops", "training time": "train_s"}
    checked = 0
    for line in table(page, "Summary")[:7]:
        own = of(rows, line["method"], line["density"])
        assert int(line["seeds"]) == len(own)
        for title, measure in measures.items():
            if title in line:
                mean, half = estimate([row[measure] for row in own])
                printed = line[title].split(" ± ")
                assert agrees(printed[0], mean), (line, title, mean)
                assert agrees(printed[1], half), (line, title, half)
                checked += 2
        for title, column in costs.items():
            printed = line[title]
            value = statistics.fmean(row[column] for row in own)
            number, _, unit = printed.partition(" ")
            assert float(number) * FACTORS.get(unit, 1.0) == pytest.approx(value, rel=0.005)
            checked += 1
    assert checked == 7 * (2 * 4 + 3)


def verdict_of(rows, setting, *, p_value, corrected):
    """Returns the verdict on a setting against static, with the further seeds at which its t interval would exclude 0."""
    method, density = re.fullmatch(r"(\w+) · density (.*)", setting).groups()
    pairs = zip(of(rows, method, density), of(rows, "static", density), strict=True)
    differences = [one["test/accuracy"] - other["test/accuracy"] for one, other in pairs]
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    if corrected < 0.05:
        return "better" if mean > 0 else "worse"
    if p_value < 0.05:
        return "not separable after correction for all rows"
    needed = next(num for num in range(2, 10_000) if stats.t.ppf(0.975, num - 1) * deviation / math.sqrt(num) < abs(mean))
    return f"not separable with {len(differences)} seeds; about {needed - len(differences)} more would do"


def test_every_number_of_the_comparison(page, rows):
    lines = table(page, "Compared with static")
    p_values = []
    for line in lines:
        sides = [re.fullmatch(r"(\w+) · density (.*)", line[side]).groups() for side in ("setting", "baseline")]
        ours, theirs = ([row["test/accuracy"] for row in of(rows, *side)] for side in sides)
        mean, half = estimate([one - other for one, other in zip(ours, theirs, strict=True)])
        printed = line["difference"].split(" ± ")
        assert agrees(printed[0], mean)
        assert agrees(printed[1], half)
        won = sum(one > other for one, other in zip(ours, theirs, strict=True))
        assert line["seeds won"] == f"{won} of {len(ours)}"
        for title, cost in (("FLOPs", "train_flops"), ("time", "train_s")):
            spent = [statistics.fmean(row[cost] for row in of(rows, *side)) for side in sides]
            assert float(line[title].removesuffix("x")) == pytest.approx(spent[0] / spent[1], rel=0.005)
        p_values.append(stats.ttest_rel(ours, theirs).pvalue)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = {}, 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    assert len(lines) == 4
    for place, line in enumerate(lines):
        assert float(line["p"]) == pytest.approx(corrected[place], rel=0.05)
        assert line["verdict"] == verdict_of(rows, line["setting"], p_value=p_values[place], corrected=corrected[place])


def test_every_value_of_the_drawer(page, rows):
    data = page.runs
    titles = {"test accuracy": "test/accuracy", "val accuracy": "val/accuracy", "test ECE": "test/ece"}
    by_key = {row["run_key"]: row for row in rows}
    checked = 0
    for place, key in enumerate(data["columns"]["run_key"]):
        for title, measure in titles.items():
            if key in by_key and title in data["measures"]:
                value = data["values"][data["measures"].index(title)][place]
                assert value == pytest.approx(by_key[key][measure], rel=1e-5)
                checked += 1
    assert checked >= 2 * len(rows)
