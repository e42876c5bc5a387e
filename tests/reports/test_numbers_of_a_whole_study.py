"""Every number of a page with all kinds of jobs is computed again from the Parquet files by plain loops, or listed with a reason.

The study has distillations, sparse trainings, merges, probes, calibrations with OOD detection and prediction sets, and latencies.
What is drawn is in test_every_number_listed.py and in the tests of the single charts.
"""

import itertools
import json
import math
import re
import statistics
from collections import Counter

import pytest
from made_up_whole import BINS, LATENCY, write_whole
from page_reader import PageReader
from recomputed import Results, agrees, check, check_rounded, estimate
from scipy import stats
from test_every_number_listed import floor

from pruneyard.reports.page import write_page

NAMES = {"accuracy": "accuracy", "NLL": "nll", "Brier score": "brier", "ECE": "ece"}
CALIBRATORS = NAMES | {"ECE (15 bins)": "ece", "noise floor of ECE": "ece_floor", "smooth ECE": "ece_smooth", "AURC": "aurc"}
DETECTION = {"AUROC": "auroc", "FPR95": "fpr95", "CCR at 10% FPR": "ccr_10"}
OVERLAP = {"weights mask overlap": "weights/jaccard", "weights mask overlap by chance": "weights/jaccard_chance"}
COSTS = {"active parameters": "num_active", "training FLOPs": "train_flops", "training time": "train_s"}
SPLIT = {"near": "ood.near", "far": "ood.far", "near: kmnist": "ood.kmnist", "far: noise": "ood.noise"}
MEMBERS = {"mean member": "mean_member", "best member on val": "best_member", "ensemble": "ensemble"}
NONE = "\u2013"
LABELS = {"method", "stage", "calibrator", "score", "conformal rule", "measure"}  # words; what a row is about, its cells say
NOT_RECOMPUTED = {
    "explore": "drawn in the browser from the values of the drawer, which are recomputed below",
    "claims": "published numbers, which come with the package; test_claims.py reads them",
    "numbers": "definitions, which are fixed text",
    "nav": "headings again",
    "footer": "fixed text",
    "over-time": "speed-up over a baseline by its own rules; test_speedup.py works them out by hand",
}
FIXED = {
    r"95% (t |bootstrap )?intervals?|exceeds in 5% of cases|accepts 95% of|FPR95:|where 10% of the OOD": "levels, fixed",
    r"p below 0\.05|excludes 0;|15 (equal-width )?bins|than 10 samples|at most \d+ (points|networks)": "limits, fixed",
    r"10th to 90th percentile|line at 1 |0\.1% and 99\.9% quantiles|severity, 0:": "what a chart shows, fixed in the code",
    r"pruneyard 0\.1\.0, torch 2\.8\.0, schema 1": "versions: texts of the runs, and of the schema",
    r"^seed 0$": "the run that is drawn, the smallest seed",
    r"^1 . ValueError: 3 of 4$": "an error's own text; how often it occurred is counted below",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def page(folder):
    return PageReader(write_page([folder], folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def results(folder):
    return Results(folder)


@pytest.fixture(scope="module")
def of_cell(page, results):
    """Returns the completed runs of each cell, once it is checked that cells hold runs that differ in their seed alone."""
    columns, found = page.runs["columns"], {}
    for key, cell in zip(columns["run_key"], columns["cell"], strict=True):
        found.setdefault(cell, []).append(results.runs[key])

    def identity(row):
        spec = {name: value for name, value in json.loads(row["spec_json"]).items() if name != "seed"}
        return json.dumps([row["kind"], row["stage"], row["method"], row["density"], row["ipc"], spec], sort_keys=True)

    assert all(len({identity(row) for row in rows}) == 1 for rows in found.values())
    assert len({identity(row) for row in results.runs.values()}) == len(found)
    return {cell: [row for row in rows if row["status"] == "COMPLETED"] for cell, rows in found.items()}


def own(rows, measure):
    return [row[measure] for row in rows if measure in row]


def differences(rows, others, measure):
    by_parent = {row["parent_key"]: row[measure] for row in others}
    return [row[measure] - by_parent[row["parent_key"]] for row in rows]


def consistency(num_tests):
    """Returns the p-value of the test for the noise floor by all outcomes of both bins: twice the median over runs, then Holm."""
    (x_one, y_one, num_one), (x_two, y_two, num_two) = BINS
    observed = abs(y_one - x_one) * num_one + abs(y_two - x_two) * num_two
    outcomes = itertools.product(range(num_one + 1), range(num_two + 1))
    chance = sum(
        stats.binom.pmf(one, num_one, x_one) * stats.binom.pmf(two, num_two, x_two)
        for one, two in outcomes
        if abs(one - x_one * num_one) + abs(two - x_two * num_two) >= observed - 1e-9
    )
    return min(1.0, num_tests * min(1.0, 2 * chance))


def rest_of_row(texts, rows, runs_of_cell):
    """Checks seeds and labels with numbers of a row, and returns the other texts by header."""
    left = {}
    for header, text in texts.items():
        if header == "seeds":
            assert int(text.split()[0]) == len(rows)
            for num, word in re.findall(r"(\d+) (pruned|failed)", text):
                assert int(num) == sum(row["status"] == word.upper() for row in runs_of_cell)
        elif header in ("density", "ipc"):
            assert text == (NONE if rows[0][header] is None else f"{rows[0][header]:g}")
        elif header in ("samples", "in-distribution samples"):
            assert int(text) == sum(count for *_, count in BINS)
        elif header not in LABELS:
            left[header] = text
    return left


def table_of(page, section, heading):
    return next(each for each in page.tables if (each.section, each.heading) == (section, heading) and each.rows)


def test_summary_classes_and_probes(page, results, of_cell):
    checked = 0
    tables = [each for each in page.tables if each.section == "summary"]
    tables += [table_of(page, "probes", name) for name in ("shift", "mask_overlap")]
    for table in tables:
        for (cell,), texts in table.entries():
            rows = of_cell[cell]
            everyone = [row for row in results.runs.values() if all(row[k] == rows[0][k] for k in ("stage", "method"))]
            for header, text in rest_of_row(texts, rows, everyone).items():
                split, _, name = header.partition(" ")
                if header in COSTS:
                    check_rounded(text, statistics.fmean(own(rows, COSTS[header])))
                elif header.isdigit():  # a class
                    points = [point for point in results.curves if (point["name"], point["key"]) == ("class_accuracy", header)]
                    keys = {row["run_key"] for row in rows}
                    assert agrees(text, statistics.fmean(point["y"] for point in points if point["run_key"] in keys))
                else:
                    check(text, own(rows, OVERLAP.get(header) or f"{split}/{NAMES[name]}"))
                checked += 1
    assert checked == 6 * 7 + 3 * 2 + 4 + 2


def test_the_summary_has_no_rows_without_values_and_none_that_another_table_has(page, of_cell):
    """Probes measured none of its columns, and calibrators are compared in a table of their own."""
    shown = {row.cells[0] for table in page.tables if table.section == "summary" for row in table.rows}
    assert {of_cell[cell][0]["kind"] for cell in of_cell if cell not in shown} == {"probe", "calibrate"}
    assert {of_cell[cell][0]["kind"] for cell in shown} == {"sparse", "distill", "merge"}


def test_comparisons_with_their_verdicts(page, results):
    told = {}
    for kind, baseline, other in (("sparse", "static", "rigl"), ("distill", "random", "dm")):
        (texts,) = [texts for _, texts in table_of(page, f"against-{baseline}", f"Compared with {baseline}").entries()]
        sides = [{row["seed"]: row for row in results.completed(kind=kind, method=name)} for name in (other, baseline)]
        common = sorted(sides[0].keys() & sides[1].keys())
        gaps = [sides[0][seed]["test/accuracy"] - sides[1][seed]["test/accuracy"] for seed in common]
        check(texts["difference"], gaps)
        p_value = stats.ttest_1samp(gaps, 0).pvalue
        assert float(texts["p"]) == pytest.approx(p_value, rel=0.05)  # one comparison: nothing to correct
        assert texts["seeds won"] == f"{sum(gap > 0 for gap in gaps)} of {len(gaps)}"
        for header, cost in (("FLOPs", "train_flops"), ("time", "train_s")):
            ratio = statistics.fmean(r[cost] for r in sides[0].values()) / statistics.fmean(r[cost] for r in sides[1].values())
            check_rounded(texts[header], ratio)
        if p_value < 0.05:
            assert texts["verdict"] == "better"
            told[baseline] = f"{other} is better"
        else:
            mean, deviation = statistics.fmean(gaps), statistics.stdev(gaps)
            needed = next(n for n in range(2, 9_999) if stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n) < abs(mean))
            more = f"not separable with {len(gaps)} seeds; about {needed - len(gaps)} more would do"
            assert texts["verdict"] == more
            told[baseline] = f"{other} is not separable from it"
    sentences = {f"Against {baseline}, paired by seed, in test accuracy: {words}." for baseline, words in told.items()}
    assert sentences <= {text for _, tag, text in page.texts if tag == "li"}
    assert set(told.values()) == {"rigl is not separable from it", "dm is better"}  # both kinds of verdicts are on the page


def test_merges(page, results, of_cell):
    rows_seen = 0
    for (cell,), texts in table_of(page, "merges", "Merged networks").entries():
        rows, name = of_cell[cell], NAMES[texts["measure"]]
        for header, text in rest_of_row(texts, rows, rows).items():
            if header == "merge":
                check(text, own(rows, f"test/{name}"))
            else:
                split = f"test@{MEMBERS[header.removeprefix('minus ')]}/{name}"
                check(text, [row[f"test/{name}"] - row[split] for row in rows])
        rows_seen += 1
    assert rows_seen == 3
    rows, p_values = results.completed(kind="merge"), []
    for split in MEMBERS.values():
        for name in ("accuracy", "nll", "ece"):
            p_values.append(stats.ttest_rel([r[f"test/{name}"] for r in rows], [r[f"test@{split}/{name}"] for r in rows]).pvalue)
    assert min(p_values) * len(p_values) > 0.05, "no p-value passes Holm's correction"
    told = f"against {' and '.join(f'the {name}' for name in MEMBERS)}, no evidence"
    (sentence,) = {text for _, tag, text in page.texts if text.startswith("Merges (paired")}
    assert sentence.endswith(f": {told}.")


def test_calibrators_detection_and_prediction_sets(page, results, of_cell):
    checked = Counter()
    plain = results.completed(kind="calibrate", method="none")
    for (cell,), texts in table_of(page, "trust", "Calibrators").entries():
        rows = of_cell[cell]
        for header, text in rest_of_row(texts, rows, rows).items():
            measure = f"test/{CALIBRATORS[header]}"
            printed, half, further = re.fullmatch(r"(\S+) ± (\S+) ?(.*)", text).groups()
            check(f"{printed} ± {half}", own(rows, measure))
            if measure == "test/ece_floor":
                assert agrees(further.removeprefix("95%: "), statistics.fmean(own(rows, "test/ece_floor_95")))
            elif rows[0]["method"] != "none":
                check(further.replace("\u2212", "-").removeprefix("+"), differences(rows, plain, measure))
            checked["calibrators"] += 1
    for table in (each for each in page.tables if each.section == "trust" and "score" in each.headers):
        for cells, texts in table.entries():
            rows = of_cell[cells[0]]
            for header, text in rest_of_row(texts, rows, rows).items():
                if header == "OOD samples":
                    counts = Counter()
                    for point in results.curves:
                        if point["run_key"] == rows[0]["run_key"] and point["name"] == "score":
                            counts[point["key"]] += point["count"]
                    assert re.findall(r"([\d,]+)(?:,|$)", text) == [f"{counts[f'ood.{name}']:,}" for name in ("kmnist", "noise")]
                    continue
                title = next(name for name in DETECTION if header.endswith(name))
                score = "" if texts["score"] == "confidence" else f"@{texts['score']}"
                check(text, own(rows, f"{SPLIT[header.removesuffix(title).strip()]}{score}/{DETECTION[title]}"))
                checked["detection"] += 1
            assert (len(cells) == 2) == (texts["score"] == "energy")  # one row for both calibrators, whose values are equal
            for other in cells[1:]:
                assert [row["ood.far@energy/auroc"] for row in of_cell[other]] == [row["ood.far@energy/auroc"] for row in rows]
    for (cell,), texts in table_of(page, "trust", "Conformal prediction sets").entries():
        for header, text in rest_of_row(texts, of_cell[cell], []).items():
            if header == "target coverage":
                assert text == "0.9"  # 1 - alpha of the spec
            else:
                check(text, own(of_cell[cell], f"sets@aps/{'coverage' if header == 'coverage' else 'set_size'}"))
            checked["sets"] += 1
    assert checked == {"calibrators": 12, "detection": 2 * 3 * 6, "sets": 6}


def test_latency(page, results):
    entries = [texts for _, texts in table_of(page, "latency", "train · batch size 8 · 1 thread · A CPU").entries()]
    assert len(entries) == 2
    for seed, texts in enumerate(entries):
        assert (texts["seed"], texts["batch size"], texts["threads"]) == (str(seed), "8", "1")
        check_rounded(texts["median latency"], LATENCY.median_s)
        check_rounded(texts["dense latency"], LATENCY.dense_median_s)
        for text, value in zip(texts["10% to 90%"].split(" to "), (LATENCY.low_s, LATENCY.high_s), strict=True):
            check_rounded(text, value)
        assert agrees(texts["speed-up"], LATENCY.speedup + seed)
        check_rounded(texts["speed-up from FLOPs"], LATENCY.dense_forward_flops / LATENCY.forward_flops)
        check_rounded(texts["file size"], LATENCY.size_bytes)
        check_rounded(texts["dense file size"], LATENCY.dense_size_bytes)


def test_runs_and_the_values_of_the_drawer(page, results):
    table = table_of(page, "run", "Reproduce")
    for texts in (texts for _, texts in table.entries()):
        row = results.runs[texts["run key"]]
        assert (texts["seed"], texts["status"]) == (str(row["seed"]), row["status"])
        assert texts["started (UTC)"] == f"{row['started_at']:%Y-%m-%d %H:%M}"
        check_rounded(texts["wall time"], row["wall_s"])
        for title, name in NAMES.items():
            check(texts[f"test {title}"], own([row], f"test/{name}"))
    assert len(table.rows) == len(results.runs)
    columns, titles = page.runs["columns"]["run_key"], {f"test {title}": f"test/{name}" for title, name in NAMES.items()}
    for title, values in zip(page.runs["measures"], page.runs["values"], strict=True):
        measure = titles.get(title)
        for key, value in zip(columns, values, strict=True):
            if measure is not None:
                expected = results.runs[key].get(measure)
                assert value == (None if expected is None else pytest.approx(expected, rel=1e-5))
    assert titles.keys() <= set(page.runs["measures"])


def test_every_number_outside_of_tables(page, results, of_cell):
    """Computes the numbers of each sentence and takes the sentence out; no digit may be left in the text."""
    rows = results.completed()
    measured = {cell: own(each, "test/accuracy") for cell, each in of_cell.items() if each[0]["kind"] != "calibrate"}
    means = {cell: statistics.fmean(values) for cell, values in measured.items() if values}
    ends = [estimate(measured[cell]) for cell in (min(means, key=means.get), max(means, key=means.get))]
    chance = floor(BINS)
    gap = sum(count * abs(x - y) for x, y, count in BINS) / sum(count for *_, count in BINS)

    def spans(low, low_half, high, high_half):
        (a, b), (c, d) = ends
        return all(agrees(*pair) for pair in ((low, a), (low_half, b), (high, c), (high_half, d)))

    sets = {"sparse": 1, "distill": 1, "calibrate": 2}  # comparisons with the baseline; NLL and ECE of the one calibrator
    seconds = sum(row["wall_s"] for row in results.runs.values())
    statuses = Counter(row["status"].lower() for row in results.runs.values())
    seeds = ", ".join(map(str, sorted({row["seed"] for row in results.runs.values()})))
    progress = [str(len(rows)), str(len(results.runs)), str(len(of_cell))]
    number, checked = r"([\d.]+)", Counter()
    sentences = (
        (r"(\d+) of (\d+) runs completed in (\d+) settings\.", lambda *printed: list(printed) == progress),
        (rf"ranges from {number} ± {number} \([^)]*\) to {number} ± {number} \([^)]*\)", spans),
        (r"Merges \(paired by run, Holm over (\d+) comparisons\)", lambda num: int(num) == 3 * len(MEMBERS)),
        (r"Holm over (\d+) comparisons", lambda num: int(num) == sets["calibrate"]),
        (rf"for any of the (2): .* p ≥ {number}, Holm", lambda _, p: float(p) == pytest.approx(consistency(2), abs=0.06)),
        (r"^(\d+) (completed|pruned|failed)$", lambda num, word: int(num) == statuses[word]),
        (rf"n = (\d+) samples per run; noise floor: .* show {number}\.", lambda n, f: int(n) == 100 and agrees(f, chance)),
        (rf"ECE {number}, noise floor {number}; 15 bins, (\d) runs with n = 100 each",
         lambda e, f, n: agrees(e, gap) and agrees(f, chance) and n in "23"),
        (r"^(\d+(?:, \d+)+)$", lambda text: text == seeds),
        (r"cpu, (\d) worker", lambda num: int(num) == 1),
        (r"^(\S+ \S+) to (\S+ \S+) UTC$", lambda start, end: (start, end) == ("2025-03-01 09:00",) * 2),
        (r"^([\d.]+ min), summed over runs$", lambda text: agrees(text, seconds)),
        (r", seed (\d) \(broken\)", lambda seed: int(seed) == results.runs["broken"]["seed"]),
        (r"at density ([\d.]+)$", lambda density: float(density) == 0.1),
        (r"at (\d+) images per class$", lambda ipc: int(ipc) == 10),
    )  # fmt: skip
    left = []
    for section, tag, text in page.texts:
        if section in NOT_RECOMPUTED or tag == "pre":  # commands and the traceback, as they are
            continue
        for pattern, holds in sentences:
            for found in re.finditer(pattern, text):
                assert holds(*found.groups()), (pattern, found[0])
                checked[pattern] += 1
            text = re.sub(pattern, " ", text)
        for pattern in FIXED:
            text = re.sub(pattern, " ", text)
        # Labels of settings and of panels, with the density or number of images that they are about.
        text = re.sub(r"· density 0\.1\b|· batch size 8 · 1 thread · A CPU$", " ", text)
        if re.search(r"\d", text):
            left.append((section, tag, text))
    assert left == []
    assert all(checked[pattern] for pattern, _ in sentences), [pattern for pattern, _ in sentences if not checked[pattern]]


def test_what_charts_of_probes_and_risks_say_and_draw(page, results):
    """Lines over the severity of a shift are means over corruptions, then over seeds; a matrix has the overlaps of the curve."""
    drawn = {}
    for spec in page.charts["probes", "accuracy"]:
        for row in (row for rows in spec["datasets"].values() for row in rows):
            drawn[row["x"]] = row
    points = [row for row in results.curves if row["name"] == "shift_accuracy"]
    for level, row in drawn.items():
        by_run = {}
        for point in points:
            if point["x"] == level:
                by_run.setdefault(point["run_key"], []).append(point["y"])
        mean, half = estimate([statistics.fmean(values) for values in by_run.values()])
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((mean, mean - half, mean + half), rel=1e-5)
    assert set(drawn) == {0, 1, 5}
    words = next(text for section, text in page.words if section == "probes" and text.startswith("accuracy over severity"))
    for value, level in zip(re.findall(r"(\d\.\d{4})", words), (0, 5), strict=True):
        assert agrees(value, drawn[level]["mean"])
    overlaps = [row["y"] for row in results.curves if row["name"] == "mask_overlap"]
    (matrix,) = page.charts["probes", "overlap"]
    assert sorted(row["value"] for rows in matrix["datasets"].values() for row in rows) == pytest.approx(sorted(overlaps))
    apart = [value for value in overlaps if value != 1]
    assert f"{min(apart):.3f} to {max(apart):.3f} between two of them" in "".join(text for _, text in page.words)
    risks = [row for spec in page.charts["trust", "Risk-coverage curves"] for rows in spec["datasets"].values() for row in rows]
    for row in risks:  # recorded at coverages 0.5 and 1, straight between them
        points = [(p["x"], p["y"]) for p in results.curves if p["name"] == "risk"]
        ends = [statistics.fmean(y for x, y in points if x == end) for end in (0.5, 1.0)]
        share = max(0.0, (row["x"] - 0.5) / 0.5)
        assert row["y"] == pytest.approx(ends[0] + share * (ends[1] - ends[0]), rel=1e-5)
    assert risks
