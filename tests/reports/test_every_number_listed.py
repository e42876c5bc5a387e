"""Every number of a page's text is recomputed from the Parquet files by other code than reports has, or listed with a reason."""

import json
import re
import statistics
from collections import Counter
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
from recomputed import agrees, estimate
from scipy import stats
from test_printed_numbers import folder, of, rows, verdict_of  # noqa: F401 - fixtures of the same study

from pruneyard.reports.page import write_page

NOT_RECOMPUTED = {
    r"95% (t|bootstrap) intervals?": "the level of all intervals, fixed in the code",
    r"p below 0\.05": "the level of all tests, fixed in the code",
    r"15 (bins|equal-width bins)": "the number of bins, fixed in the code",
    r"fewer than 10 samples": "a limit of what is drawn, fixed in the code",
    r"at most 60 points per line": "a limit of what is drawn, fixed in the code",
    r"^Spec \S+$": "the path of the folder",
    r"pruneyard 0\.1\.0, torch 2\.8\.0, schema 1": "versions: texts of the runs, and the version of the schema",
}
"""Texts with numbers that are no results, and why."""
SECTIONS_WITHOUT_RESULTS = {
    "claims": "published numbers, which come with the package; test_claims.py reads them",
    "numbers": "definitions, which are fixed text",
    "explore": "drawn in the browser from the numbers of the drawer; test_printed_numbers.py and the browser tests check these",
}
CHECKED_AS_TABLES = {"summary", "against-static"}  # their rows: test_printed_numbers.py
BLOCKS = {"p", "tr", "li", "h2", "h3", "summary", "dt", "dd", "pre", "figure", "ul", "section"}


class Lines(HTMLParser):
    """Collects the visible texts by section: (tag, text), and the data of the charts."""

    def __init__(self):
        super().__init__()
        self.found, self.charts, self.hidden, self.section, self.is_chart = {"header": []}, {}, 0, "header", False

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        self.hidden += tag in ("script", "style", "svg")
        self.is_chart = tag == "script" and own.get("type") == "application/json" and "id" not in own
        if tag == "section":
            self.section = own["id"]
        elif tag in ("nav", "footer"):
            self.section = tag
        if tag in BLOCKS:
            self.found.setdefault(self.section, []).append((tag, ""))

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style", "svg")

    def handle_data(self, data):
        if self.is_chart and data.strip():
            self.charts.setdefault(self.section, []).append(json.loads(data))
        elif not self.hidden and data.strip() and self.found.get(self.section):
            tag, text = self.found[self.section][-1]
            self.found[self.section][-1] = (tag, f"{text} {' '.join(data.split())}".strip())


@pytest.fixture(scope="module")
def lines(folder):  # noqa: F811
    reader = Lines()
    reader.feed(write_page([folder], folder / "listed.html").read_text(encoding="utf-8"))
    return reader


@pytest.fixture(scope="module")
def bins(folder):  # noqa: F811
    """Returns the reliability bins on test of each run: mean confidence, accuracy, count."""
    found = {}
    for row in pq.read_table(folder / "results" / "curves").to_pylist():
        if (row["name"], row["key"]) == ("reliability", "test"):
            found.setdefault(row["run_key"], []).append((row["x"], row["y"], row["count"]))
    return found


def ece(own):
    return sum(count * abs(x - y) for x, y, count in own) / sum(count for *_, count in own)


def floor(own):
    """Returns the expected ECE of a calibrated network by the sum over all counts of each bin."""
    gaps = [abs(k - x * count) * stats.binom.pmf(k, count, x) for x, _, count in own for k in range(int(count) + 1)]
    return sum(gaps) / sum(count for *_, count in own)


def means(rows, measure="test/accuracy"):  # noqa: F811
    labels = {name_of(row) for row in rows}
    return {label: estimate([row[measure] for row in rows if name_of(row) == label]) for label in labels}


def name_of(row):
    return row["method"] if row["method"] == "dense" else f"{row['method']} · density {row['density']:g}"


class Ledger:
    """Takes out of a text what was recomputed; what is left must have no digit."""

    def __init__(self, rows, bins, charts):  # noqa: F811
        self.rows, self.bins, self.charts, self.label, self.checked = rows, bins, charts, "", Counter()
        self.by_key = {row["run_key"]: row for row in rows}

    def of_label(self, label):
        return [row for row in self.rows if name_of(row) == label]

    def take(self, section, text):
        for pattern, check in CHECKS:
            for found in re.finditer(pattern, text):
                check(self, *found.groups())
                self.checked[pattern] += 1
            text = re.sub(pattern, " ", text)
        for pattern in NOT_RECOMPUTED:
            text = re.sub(pattern, " ", text)
        if text in {name_of(row) for row in self.rows}:
            self.label = text
            return ""
        return re.sub(r"\bdensity (0\.2|0\.05)$", " ", text)  # entries of a legend


def progress(book, completed, planned, settings):
    assert (int(completed), int(planned), int(settings)) == (len(book.rows), len(book.rows), len(means(book.rows)))


def span(book, low, low_half, worst, high, high_half, best):
    found = means(book.rows)
    for name, value, half, chosen in ((worst, low, low_half, min), (best, high, high_half, max)):
        assert name == chosen(found, key=lambda label: found[label][0])
        assert agrees(value, found[name][0])
        assert agrees(half, found[name][1])


def better(book, method, word, where):
    """Counts settings whose paired t test, corrected by Holm over all four comparisons, is below 0.05."""
    p_values = {}
    for other in ("rigl", "set"):
        for density in (0.2, 0.05):
            sides = [[row["test/accuracy"] for row in of(book.rows, name, density)] for name in (other, "static")]
            p_values[other, density] = stats.ttest_rel(*sides).pvalue
    order = sorted(p_values, key=p_values.get)
    corrected, largest = {}, 0.0
    for rank, key in enumerate(order):
        largest = corrected[key] = max(largest, min(1.0, (len(order) - rank) * p_values[key]))
    found = [
        verdict_of(book.rows, f"{method} · density {density:g}", p_value=p_values[key], corrected=corrected[key])
        for key in p_values
        if (density := key[1]) and key[0] == method
    ]
    assert where == ("both settings" if found.count(word) == 2 else f"{found.count(word)} of 2 settings")


def samples_and_floor(book, num, shown):
    assert {sum(count for *_, count in own) for own in book.bins.values()} == {int(num)}
    assert all(agrees(shown, floor(own)) for own in book.bins.values())


def diagram(book, error, chance, num_runs, num):
    own = [book.bins[row["run_key"]] for row in book.of_label(book.label)]
    assert agrees(error, statistics.fmean(map(ece, own)))
    assert agrees(chance, statistics.fmean(map(floor, own)))
    assert (int(num_runs), {int(num)}) == (len(own), {sum(count for *_, count in each) for each in own})


def run_row(book, label, seed, key, accuracy, nll, brier, error, wall, start):
    row = book.by_key[key]
    assert (label, int(seed), start) == (name_of(row), row["seed"], f"{row['started_at']:%Y-%m-%d %H:%M}")
    for text, measure in ((accuracy, "accuracy"), (nll, "nll"), (brier, "brier"), (error, "ece")):
        assert agrees(text, row[f"test/{measure}"])
    assert agrees(wall, row["wall_s"])


def time_span(book, start, end):
    assert start == f"{min(row['started_at'] for row in book.rows):%Y-%m-%d %H:%M}"
    assert end == f"{max(row['ended_at'] for row in book.rows):%Y-%m-%d %H:%M}"


def wall_time(book, text):
    assert agrees(text, sum(row["wall_s"] for row in book.rows))


def more_diagrams(book, num):
    assert int(num) == len(means(book.rows)) - 3


def completed_runs(book, num):
    assert int(num) == len(book.rows)


def seeds(book, text):
    assert [int(seed) for seed in text.split(", ")] == sorted({row["seed"] for row in book.rows})


def one_worker(book, num):
    assert {row["num_workers"] for row in book.rows} == {int(num)}


NUMBER = r"([\d.]+)"
CHECKS = (
    (r"^(\d+) of (\d+) runs completed in (\d+) settings\.", progress),
    (rf"Mean test accuracy ranges from {NUMBER} ± {NUMBER} \(([^)]*)\) to {NUMBER} ± {NUMBER} \(([^)]*)\)\.", span),
    (r"(\w+) is (better|worse) in (both settings|\d+ of \d+ settings)", better),
    (r"^(\d+) completed$", completed_runs),
    (
        rf"n = (\d+) samples per run; noise floor: perfectly calibrated networks with the same confidences would show {NUMBER}\.",
        samples_and_floor,
    ),
    (rf"ECE {NUMBER}, noise floor {NUMBER}; 15 bins, (\d+) runs with n = (\d+) each", diagram),
    (r"Diagrams of (\d+) more settings", more_diagrams),
    (
        r"^(.+) (\d+) ([0-9a-f]{12}) COMPLETED "
        + " ".join([NUMBER] * 4)
        + r" (\d+ s) cpu (\d{4}-\d\d-\d\d \d\d:\d\d)$",
        run_row,
    ),
    (r"^(\d{4}-\d\d-\d\d \d\d:\d\d) to (\d{4}-\d\d-\d\d \d\d:\d\d) UTC$", time_span),
    (r"^([\d.]+ min), summed over runs$", wall_time),
    (r"^(\d+(?:, \d+)+)$", seeds),
    (r"cpu, (\d+) worker", one_worker),
)  # fmt: skip


def test_every_number_of_the_text_is_recomputed_or_listed(lines, rows, bins):  # noqa: F811
    book = Ledger(rows, bins, lines.charts)
    left = []
    for section, found in lines.found.items():
        if section in SECTIONS_WITHOUT_RESULTS or section in ("nav", "footer"):
            continue
        for tag, text in found:
            if tag == "pre" or (tag == "tr" and section in CHECKED_AS_TABLES):
                continue  # commands, and rows that test_printed_numbers.py computes
            rest = book.take(section, text)
            if re.search(r"\d", rest):
                left.append((section, rest))
    assert left == []
    assert all(book.checked[pattern] for pattern, _ in CHECKS), "a check that no text of the page meets"
    assert book.checked[CHECKS[7][0]] == len(rows)


def test_every_point_of_the_charts_of_means_is_recomputed(lines, rows, folder):  # noqa: F811
    """The charts over density and cost: mean, interval and place of every setting. Learning curves: the mean of every epoch."""
    found = means(rows)
    checked = 0
    for name in ("against-density", "cost"):
        for row in (row for chart in lines.charts[name] for data in chart["datasets"].values() for row in data):
            mean, half = found[row["label"]]
            assert (row["mean"], row["low"], row["high"]) == pytest.approx((mean, mean - half, mean + half), rel=1e-5)
            for cost in ("num_active", "train_flops", "train_s"):
                if cost in row:
                    spent = statistics.fmean(each[cost] for each in rows if name_of(each) == row["label"])
                    assert row[cost] == pytest.approx(spent, rel=1e-5)
            checked += 1
    assert checked == 7 + 3 * 7
    values = {}
    keys = {row["run_key"]: row for row in rows}
    for row in pq.read_table(folder / "results" / "metrics").to_pylist():
        if row["split"] == "val":
            own = keys[row["run_key"]]
            values.setdefault((row["name"], own["method"], own["density"], row["epoch"]), []).append(row["value"])
    averages = [(name, epoch, statistics.fmean(own)) for (name, _, _, epoch), own in values.items()]
    for name in ("accuracy", "nll"):
        drawn = [row for chart in lines.charts[f"learning-val-{name}"] for data in chart["datasets"].values() for row in data]
        assert len({(row["line"], row["epoch"]) for row in drawn}) == 3 * 4
        for row in drawn:
            expected = [value for measure, epoch, value in averages if (measure, epoch) == (name, row["epoch"])]
            assert min(abs(row["mean"] - value) for value in expected) < 1e-5
