"""How far the axes of charts reach."""

import json
import math

import pandas as pd
import pytest
from made_up_study import metric, record

from reports.charts import marks
from reports.charts.against import against_density
from reports.charts.learning import learning
from reports.layout import RunFolder
from reports.store import Store
from reports.study import Study


def table(*triples):
    return pd.DataFrame(triples, columns=["mean", "low", "high"])


@pytest.mark.parametrize(("measure", "most"), [("test/accuracy", 1.0), ("val/ece", 1.0), ("test/brier", 2.0)])
def test_an_axis_of_a_bounded_measure_stays_within_its_bounds(measure, most):
    assert marks.domain(measure, table((0.5, -1.0, 3.0))) == (0.0, most)


def test_an_axis_holds_the_intervals_with_a_margin():
    low, high = marks.domain("test/accuracy", table((0.5, 0.4, 0.6), (0.7, math.nan, math.nan)))
    assert (low, high) == pytest.approx((0.4 - 0.015, 0.7 + 0.015))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_an_axis_of_one_value_has_a_length(value):
    low, high = marks.domain("test/accuracy", table((value, math.nan, math.nan)))
    assert 0 <= low <= value <= high <= 1
    assert low < high


def study_of(path, measure, *curves):
    for seed, values in enumerate(curves):
        rows = [metric(value, step=10 * step, name=measure) for step, value in enumerate(values, start=1)]
        Store(RunFolder(path)).write(record(f"k{seed}", seed=seed), rows, [])
    return Study.read([path])


def domains(figures):
    """The domains of all y axes in the pictures for the browser."""
    return [
        tuple(map(float, found)) for figure in figures for panel in figure.panels for found in _domains(panel)
    ]


def _domains(panel):
    spec = json.loads(panel.spec)
    layers = [inner for layer in spec["layer"] for inner in layer.get("layer", [layer])]
    return [
        layer["encoding"]["y"]["scale"]["domain"] for layer in layers if "scale" in layer["encoding"]["y"]
    ]


def test_accuracies_near_one_are_drawn_below_one(tmp_path):
    study = study_of(tmp_path, "accuracy", (0.5, 0.9), (0.6, 0.99))
    found = domains([*against_density(study, "test/accuracy"), *learning(study)])
    assert found
    assert {high for _, high in found} == {1.0}
    assert min(low for low, _ in found) >= 0


def test_a_learning_curve_holds_its_bands(tmp_path):
    study = study_of(tmp_path, "accuracy", (0.5, 0.6), (0.501, 0.601))
    half = 12.7062 * 0.001 / 2
    for low, high in domains(learning(study)):
        assert low < 0.5005 - half
        assert high > 0.6005 + half


def test_a_logarithmic_curve_is_drawn_where_its_band_falls_below_zero(tmp_path):
    study = study_of(tmp_path, "nll", (2.0, 0.1), (2.2, 0.2))
    for low, high in domains(learning(study)):
        assert low == pytest.approx(0.15 / 2)
        assert high > 2.1
