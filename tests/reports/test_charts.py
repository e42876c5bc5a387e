"""The ranges and titles of chart axes."""

import json
import math

import pandas as pd
import pytest
from made_up_study import metric, record, write_study

from pruneyard.reports.charts import marks
from pruneyard.reports.charts.against import against_density
from pruneyard.reports.charts.cost import cost
from pruneyard.reports.charts.learning import learning
from pruneyard.reports.charts.reliability import reliability
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import CurveRow
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study
from pruneyard.testing.cases import each_case


def table(*triples):
    return pd.DataFrame(triples, columns=["mean", "low", "high"])


@each_case(("measure", "most"), [("test/accuracy", 1.0), ("val/ece", 1.0), ("test/brier", 2.0)])
def test_an_axis_of_a_bounded_measure_stays_within_its_bounds(measure, most):
    assert marks.domain(measure, table((0.5, -1.0, 3.0))) == (0.0, most)


def test_an_axis_holds_the_intervals_with_a_margin():
    low, high = marks.domain("test/accuracy", table((0.5, 0.4, 0.6), (0.7, math.nan, math.nan)))
    assert (low, high) == pytest.approx((0.4 - 0.015, 0.7 + 0.015))


@each_case("value", [0.0, 0.5, 1.0])
def test_an_axis_of_one_value_has_a_length(value):
    low, high = marks.domain("test/accuracy", table((value, math.nan, math.nan)))
    assert 0 <= low <= value <= high <= 1
    assert low < high


def study_of(path, measure, *curves):
    split = "train" if measure == "explored" else "test"
    for seed, values in enumerate(curves):
        points = enumerate(values, start=1)
        rows = [metric(value, step=10 * step, name=measure, split=split) for step, value in points]
        Store(RunFolder(path)).write(record(f"k{seed}", seed=seed), rows, [])
    return Study.read([path])


def dense_and_sparse(path, densities):
    settings = [("dense", 1.0), *(("rigl", density) for density in densities)]
    for seed in (0, 1):
        for place, (method, density) in enumerate(settings):
            spec = json.dumps({"method": {"name": method, "density": density}})
            named = {"method": method, "density": density, "seed": seed, "spec_json": spec, "train_flops": 1e9 * density}
            rows = [metric(0.95 + 0.01 * step + 0.001 * seed, step=10 * step) for step in (1, 2)]
            Store(RunFolder(path)).write(record(f"k{seed}{place}", **named), rows, [])
    return Study.read([path])


def domains(figures):
    """Returns the domains of all axes in the charts for the browser."""
    return [
        tuple(map(float, found)) for figure in figures for panel in figure.panels for found in _domains(panel)
    ]


def _domains(panel):
    encodings = [layer["encoding"] for layer in layers(panel)]
    scales = [encoding[axis].get("scale", {}) for encoding in encodings for axis in ("x", "y")]
    return [scale["domain"] for scale in scales if "domain" in scale]


def layers(panel):
    """Returns the layers of a chart for the browser, including nested ones."""
    spec = json.loads(panel.spec)
    return [inner for layer in spec["layer"] for inner in layer.get("layer", [layer])]


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


@pytest.mark.parametrize("densities", [(0.1, 0.2), (0.1,)])
def test_every_layer_of_a_chart_has_the_axis_of_its_measure(tmp_path, densities):
    """A bar, an area or a rule without a scale of its own would pull the axis of all down to zero."""
    study = dense_and_sparse(tmp_path, densities)
    figures = [*learning(study), *against_density(study, "test/accuracy"), *cost(study, "test/accuracy")]
    checked = 0
    for panel in (panel for figure in figures for panel in figure.panels):
        axes = [[layer["encoding"].get(axis, {}) for layer in layers(panel)] for axis in ("x", "y")]
        measured = next(found for found in axes if any(e.get("field") == "mean" for e in found))
        scales = [encoding["scale"] for encoding in measured]
        assert all(scale["domain"] == scales[0]["domain"] for scale in scales)
        assert scales[0]["domain"][0] > 0.8
        checked += 1
    assert checked >= 3


def test_exploration_is_drawn_where_masks_moved(tmp_path):
    moved = study_of(tmp_path / "moved", "explored", (0.1, 0.3), (0.1, 0.2))
    still = study_of(tmp_path / "still", "explored", (0.1, 0.1), (0.1, 0.1))
    assert [figure.title for figure in learning(moved)] == ["Explored weights during training"]
    assert learning(still) == []


def test_a_logarithmic_curve_is_drawn_where_its_band_falls_below_zero(tmp_path):
    study = study_of(tmp_path, "nll", (2.0, 0.1), (2.2, 0.2))
    for low, high in domains(learning(study)):
        assert low == pytest.approx(0.15 / 2)
        assert high > 2.1


def along(panel, axis):
    """Returns field and type of an axis."""
    return {
        (layer["encoding"][axis].get("field"), layer["encoding"][axis].get("type"))
        for layer in layers(panel)
        if axis in layer["encoding"]
    }


def test_methods_at_one_density_get_a_row_each(tmp_path):
    study = Study.read([write_study(tmp_path / "out", densities=(0.1,), seeds=2, troubles=False)])
    (figure,) = against_density(study, "test/accuracy")
    (panel,) = figure.panels
    assert figure.title == "Test accuracy at density 0.1"
    assert ("series", "nominal") in along(panel, "y")
    assert {field for field, _ in along(panel, "x")} == {"mean", "low"}
    assert "test accuracy at density 0.1" in panel.still
    for method in ("rigl", "set", "static"):
        assert f">{method}<" in panel.still


def test_methods_at_several_densities_are_lines_over_density(tmp_path):
    study = Study.read([write_study(tmp_path / "out", densities=(0.2, 0.1), seeds=2, troubles=False)])
    (figure,) = against_density(study, "test/accuracy")
    assert figure.title == "Test accuracy versus density"
    assert ("density", "quantitative") in along(figure.panels[0], "x")


def test_a_line_without_a_name_needs_no_legend():
    styles = {"": ("#000000", "circle"), "density 0.1": ("#ff0000", "circle")}
    assert [entry.label for entry in marks.entries(styles, ["", "density 0.1"])] == ["density 0.1"]
    assert marks.entries(styles, [""]) == []


@each_case(("low", "high"), [(-2.3026, -2.285), (0.0, 1.0), (-1.5, 20.0), (1e-7, 3e-7)])
def test_ticks_between_close_numbers_read_differently(low, high):
    form = marks.distinct_ticks(low, high).replace("~", "")
    ticks = [format(low + (high - low) * place / 5, form) for place in range(6)]
    assert len(set(ticks)) == 6


def test_the_diagram_that_deviates_most_from_its_noise_floor_comes_first_and_small_bins_are_not_drawn(tmp_path):
    for place, method in enumerate(("good", "bad", "fair", "poor")):
        accuracy = (0.9, 0.5, 0.85, 0.7)[place]
        curves = [
            CurveRow(name="reliability", step=10, key="test", x=0.9, y=accuracy, count=400),
            CurveRow(name="reliability", step=10, key="test", x=0.3, y=1.0, count=3),
        ]
        run = record(f"k{place}", method=method, spec_json=json.dumps({"method": {"name": method}}))
        Store(RunFolder(tmp_path)).write(run, [metric(0.9)], curves)
    (figure,) = reliability(Study.read([tmp_path]))
    assert [panel.title for panel in figure.panels] == ["bad", "poor", "fair"]
    assert [panel.title for panel in figure.folded] == ["good"]
    spec = json.loads(figure.panels[0].spec)
    filters = [layer["transform"] for layer in spec["layer"] if "transform" in layer and layer["mark"]["type"] != "rect"]
    assert filters == [[{"filter": "datum.count >= 10"}]] * 2
