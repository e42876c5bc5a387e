"""The series of the charts, worked by hand."""

import math

import pytest
from made_up_study import metric, record

from pruneyard.reports import series
from pruneyard.reports.cells import label_cells
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import CurveRow, Status
from pruneyard.reports.store import Store
from pruneyard.reports.summary import history


@pytest.fixture
def store(tmp_path):
    return Store(RunFolder(tmp_path))


def curve(store, measure="test/accuracy"):
    curves = series.learning_curves(history(store.metrics()), label_cells(store.runs()))
    return curves[curves["measure"] == measure]


def test_learning_curve_is_the_mean_of_completed_seeds(store):
    for seed, shift in enumerate((0.0, 0.2)):
        rows = [metric(0.1 + shift, step=10), metric(0.5 + shift, step=20)]
        store.write(record(f"k{seed}", seed=seed), rows, [])
    store.write(record("k9", seed=9, status=Status.PRUNED), [metric(0.0, step=10)], [])
    points = curve(store)
    assert list(points["step"]) == [10, 20]
    assert list(points["mean"]) == pytest.approx([0.2, 0.6])
    assert list(points["num"]) == [2, 2]


def test_steps_that_not_all_seeds_evaluated_are_left_out(store):
    store.write(record("a", seed=0), [metric(0.1, step=10), metric(0.2, step=15)], [])
    store.write(record("b", seed=1), [metric(0.3, step=10)], [])
    assert list(curve(store)["step"]) == [10]


def test_runs_on_the_same_first_run_are_one_repetition_of_a_curve(store):
    """Two runs on one start and one on another: their means 0.2 and 0.4 give the curve 0.3, of two repetitions."""
    for key, parent, value in (("a", "s0", 0.1), ("b", "s0", 0.3), ("c", "s1", 0.4)):
        store.write(record(key, seed=ord(key), parent_key=parent), [metric(value)], [])
    (point,) = curve(store).to_dict("records")
    assert (point["mean"], point["num"]) == (pytest.approx(0.3), 2)
    assert point["high"] - point["mean"] == pytest.approx(12.706 * math.sqrt(0.02 / 2), rel=1e-3)


def test_long_curves_are_thinned_and_keep_both_ends(store):
    store.write(record(), [metric(0.5, step=step) for step in range(1, 1001)], [])
    points = series.thinned(curve(store))
    assert len(points) == series.MAX_POINTS
    assert points["step"].iloc[0] == 1
    assert points["step"].iloc[-1] == 1000


def test_a_seed_that_turned_nan_makes_the_mean_nan(store):
    store.write(record("a", seed=0), [metric(0.1)], [])
    store.write(record("b", seed=1), [metric(math.nan)], [])
    assert curve(store)["mean"].isna().all()


def bins(store, *points, key="k", seed=0, step=1, **changes):
    rows = [CurveRow(name="reliability", step=step, key="test", x=x, y=y, count=n) for x, y, n in points]
    store.write(record(key, seed=seed, **changes), [], rows)


def test_reliability_bins_of_seeds_are_weighted_by_samples(store):
    bins(store, (0.95, 1.0, 30), (0.5, math.nan, 0), key="a")
    bins(store, (0.99, 0.6, 10), key="b", seed=1)
    (row,) = series.reliability(store.curves(), label_cells(store.runs())).to_dict("records")
    assert row["x"] == pytest.approx((0.95 * 30 + 0.99 * 10) / 40)
    assert row["y"] == pytest.approx(0.9)
    assert row["count"] == 40


def test_reliability_bins_are_right_closed(store):
    bins(store, (0.2, 0.1, 1), (0.2001, 0.3, 1), (0.0, 0.0, 1), (1.0, 1.0, 1))
    found = series.reliability(store.curves(), label_cells(store.runs()))
    assert list(found["bin"]) == [0, 2, 3, 14]


def test_layer_densities_are_those_of_the_last_step_in_the_models_order(store):
    rows = [
        CurveRow(name="density", step=step, key=key, y=step / 10)
        for step in (1, 5)
        for key in ("z.weight", "a.weight")
    ]
    store.write(record(), [], rows)
    found = series.layer_densities(store.curves(), label_cells(store.runs()))
    assert list(found["layer"]) == ["z.weight", "a.weight"]
    assert list(found["density"]) == [0.5, 0.5]


def test_nothing_comes_of_nothing(store):
    labelled = label_cells(store.runs())
    assert curve(store).empty
    assert series.reliability(store.curves(), labelled).empty
    assert series.layer_densities(store.curves(), labelled).empty
