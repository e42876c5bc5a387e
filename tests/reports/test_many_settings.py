"""Studies of thousands of settings: charts draw a bounded choice of them, and one figure that fails costs itself alone."""

import json
import math

import pandas as pd
import pytest
from made_up_study import metric, record
from test_page import read

from pruneyard.reports import leading, page, tables
from pruneyard.reports.charts import catalog, figure
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.page import write_page
from pruneyard.reports.records import CurveRow
from pruneyard.reports.store import Attempt, Store
from pruneyard.reports.study import Study

NUM = 200


def write_random_search(path, num, *, val=True):
    """Writes a random search: `num` settings that differ in lr; setting i has val accuracy i / num, and the reverse on test."""
    attempts = []
    for number in range(num):
        spec = {"method": {"name": "rigl", "density": 0.1}, "optimizer": {"name": "sgd", "lr": 0.1 + number}}
        rows = [metric(1 - number / num, step=step, split="test") for step in (10, 20)]
        rows += [metric(number / num, step=step, split="val") for step in (10, 20) if val]
        curves = [CurveRow(name="reliability", step=20, key="test", x=0.5, y=0.4, count=10)]
        curves.append(CurveRow(name="density", step=20, key="head", y=0.1))
        changes = {"spec_json": json.dumps(spec), "num_active": 100 + number}
        attempts.append(Attempt(run=record(f"k{number:05}", **changes), metrics=rows, curves=curves))
    Store(RunFolder(path)).write_together(attempts)
    return Study.read([path])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return write_random_search(tmp_path_factory.mktemp("many"), NUM)


def test_charts_draw_the_best_series_by_val_never_by_test(many):
    lowest = 0.1 + NUM - leading.MAX_SERIES
    assert sorted(many.drawn["optimizer.lr"]) == [lowest + place for place in range(leading.MAX_SERIES)]
    assert many.drawn_note == (
        " Drawn are 24 of 200 settings: at most 12 sizes each of the best 24 of 200 series by val accuracy. "
        "`pruneyard export` writes all settings."
    )


def test_without_a_val_measure_the_first_series_are_drawn(tmp_path):
    study = write_random_search(tmp_path, 30, val=False)
    assert list(study.drawn["cell"]) == list(study.cells["cell"][: leading.MAX_SERIES])
    assert "the first 24 of 30 series." in study.drawn_note


def test_probes_and_calibrators_take_no_place_of_the_networks(tmp_path):
    """Thirty calibrators and thirty probes of each of two networks: charts still draw both networks."""
    store = Store(RunFolder(tmp_path))
    attempts = []
    for method in ("rigl", "static"):
        spec = {"method": {"name": method}}
        attempts.append(Attempt(run=record(method, method=method, spec_json=json.dumps(spec)), metrics=[metric(0.1)], curves=[]))
        for kind in ("probe", "calibrate"):
            for place in range(30):
                spec = {"input": {"runs": {"method": {"name": method}}}, "method": {"name": f"m{place}"}}
                own = {"kind": kind, "stage": kind, "method": f"m{place}", "parent_key": method, "spec_json": json.dumps(spec)}
                rows = [metric(0.9), metric(0.9, split="val")]
                attempts.append(Attempt(run=record(f"{kind}{method}{place}", **own), metrics=rows, curves=[]))
    store.write_together(attempts)
    study = Study.read([tmp_path])
    drawn = study.drawn["kind"].value_counts().to_dict()
    assert drawn == {"sparse": 2, "calibrate": leading.MAX_SERIES}
    assert study.drawn_note == "", "both networks are drawn"


def test_nll_settles_what_accuracy_leaves_open_and_no_number_comes_last():
    cells = pd.DataFrame({"cell": list("abcde"), "field": ["one"] * 4 + ["two"]})
    labelled = pd.DataFrame({"run_key": list("abce"), "cell": list("abce"), "status": "COMPLETED"})
    accuracy = [("a", 0.9), ("b", 0.9), ("c", 0.95), ("e", 0.1)]
    finals = [{"run_key": key, "measure": "val/accuracy", "value": value} for key, value in accuracy]
    finals += [{"run_key": key, "measure": "val/nll", "value": value} for key, value in [("a", 0.5), ("b", 0.4), ("c", 2.0)]]
    assert list(leading.ranks(cells, labelled, pd.DataFrame(finals))) == [3, 2, 1, 4, 1]


def test_no_chart_grows_with_the_number_of_settings(many, monkeypatch):
    drawn = []
    monkeypatch.setattr(figure, "_panel", lambda plot, *, width, name: drawn.append(plot))
    assert page.figures(many)
    assert drawn
    for plot in drawn:
        text = json.dumps(plot.chart.to_dict())
        series = {value for value in many.cells["series"] if f'"{value}"' in text}
        assert len(series) <= leading.MAX_SERIES, plot.title
        assert len(text) < 60_000, plot.title


@pytest.mark.parametrize(("sizes", "kept"), [(3, [0, 1, 2]), (12, list(range(12))), (23, list(range(0, 23, 2)))])
def test_sizes_of_a_series_are_thinned_evenly_from_the_largest_to_the_smallest(sizes, kept):
    cells = pd.DataFrame({"cell": range(sizes), "field": "", "series": "rigl"})
    found = leading.drawn(cells, pd.Series(range(1, sizes + 1)))
    assert [int(cell) for cell in found["cell"]] == kept


def test_ranks_are_places_within_a_field_by_mean_over_runs_and_cells_without_the_measure_come_last():
    cells = pd.DataFrame({"cell": [0, 1, 2, 3], "field": ["a", "a", "b", "a"]})
    labelled = pd.DataFrame({"run_key": ["r0", "p0", "r1", "s1", "r2"], "cell": [0, 0, 1, 1, 2], "status": "COMPLETED"})
    labelled.loc[1, "status"] = "PRUNED"
    values = {"r0": 0.5, "p0": 0.1, "r1": 0.3, "s1": 0.4, "r2": 9.0}
    finals = pd.DataFrame({"run_key": list(values), "measure": "val/nll", "value": list(values.values())})
    assert leading.ranks(cells, labelled, finals).tolist() == [2, 1, 1, 3]  # 0.5 and the mean 0.35; smaller is better


def test_a_figure_that_fails_costs_itself_alone_and_is_named(tmp_path, monkeypatch):
    study = write_random_search(tmp_path / "out", 3)
    assert "cost" in {each.name for each in page.figures(study)}

    def fail(study, measure):
        raise RecursionError("Maximum call stack size exceeded")

    monkeypatch.setattr(catalog, "cost", fail)
    monkeypatch.setattr(figure.vl_convert, "vegalite_to_svg", _failing_on_layers(figure.vl_convert.vegalite_to_svg))
    text, reader = read(write_page([tmp_path / "out"], tmp_path / "report.html"))
    assert "test accuracy versus cost This figure could not be drawn: RecursionError: Maximum call stack" in reader.text
    assert "Density per layer This figure could not be drawn: ValueError: no layers today." in reader.text
    assert "Reliability diagrams (test split)" in reader.text
    assert 0 < text.count('<div class="still"') == len(reader.specs)


def _failing_on_layers(render):
    def rendered(spec, **options):
        if "layer:N" in json.dumps(spec) or '"field": "layer"' in json.dumps(spec):
            raise ValueError("no layers today")
        return render(spec, **options)

    return rendered


def test_a_long_table_keeps_its_best_rows_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROWS", 5)
    monkeypatch.setattr(page.prose, "MAX_ROWS", 5)
    study = write_random_search(tmp_path, 8)
    table = tables.summary_table(study)
    assert [row[0].text for row in table.rows] == ["3.1", "4.1", "5.1", "6.1", "7.1"]
    assert "Rows: the best 5 of 8 settings by val accuracy; `pruneyard export` writes all." in page.prose.summary_note(study)


def test_means_of_many_cells_at_once_are_those_of_each(tmp_path):
    store = Store(RunFolder(tmp_path))
    for key, seed, parent, value in (("a", 0, "p", 0.1), ("b", 1, "p", 0.3), ("c", 2, "q", 0.6), ("d", 3, "r", math.nan)):
        method = "set" if key == "d" else "rigl"
        spec = json.dumps({"method": {"name": method}})
        run = record(key, seed=seed, parent_key=parent, method=method, train_s=10.0 * seed, spec_json=spec)
        store.write(run, [metric(value)], [])
    table = Study.read([tmp_path]).cells.set_index("method")
    # Runs a and b rest on one first run: two repetitions, 0.2 and 0.6, so half = 12.706 * 0.2828 / sqrt(2).
    assert table.loc["rigl", "test/accuracy"] == pytest.approx(0.4)
    assert table.loc["rigl", "test/accuracy_high"] == pytest.approx(0.4 + 12.7062 * 0.2, rel=1e-5)
    assert table.loc["rigl", ["num_seeds", "train_s"]].tolist() == [3, 10.0]
    assert math.isnan(table.loc["set", "test/accuracy"])
