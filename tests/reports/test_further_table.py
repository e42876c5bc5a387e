"""The page's table of further measures and of the accuracy on each class."""

import json
from pathlib import Path

from made_up_study import metric, record

from pruneyard.reports.further_table import MAX_CLASSES, further_table
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import CurveRow
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study
from pruneyard.reports.tables import summary_table


def study_of(folder: Path, accuracies: list[dict[str, float]]) -> Study:
    """Returns a study of two widths with a run for each list of accuracies by class, in turn."""
    for number, by_class in enumerate(accuracies):
        width = (64, 128)[number % 2]
        run = record(f"k{number}", seed=number // 2, spec_json=json.dumps({"model": {"name": "mlp", "width": width}}))
        points = [
            CurveRow(name="class_accuracy", step=10, key=name, x=place, y=value, count=7)
            for place, (name, value) in enumerate(by_class.items())
        ]
        worst = min(by_class.values(), default=0.5)
        rows = [metric(0.8), metric(worst, name="accuracy_of_worst_class"), metric(0.03, name="ece_adaptive")]
        Store(RunFolder(folder)).write(run, rows, points)
    return Study.read([folder])


def test_a_class_has_its_mean_over_seeds_in_the_order_of_classes(tmp_path: Path) -> None:
    runs = [{"ten": 0.5, "nine": 0.9}, {"ten": 0.3, "nine": 1.0}, {"ten": 0.7, "nine": 0.9}, {"ten": 0.4, "nine": 1.0}]
    study = study_of(tmp_path, runs)
    table, note = further_table(study)
    assert table is not None
    assert list(table.headers) == ["width", "test adaptive ECE", "test worst-class accuracy", "ten", "nine"]
    texts = [[value.text for value in row] for row in table.rows]
    assert [row[0] for row in texts] == ["64", "128"]
    assert [row[3:] for row in texts] == [["0.6", "0.9"], ["0.35", "1"]]
    assert "mean over seeds" in note
    assert summary_table(study).headers[:3] == ["width", "seeds", "test accuracy"]


def test_of_many_classes_those_with_the_lowest_accuracy_are_shown(tmp_path: Path) -> None:
    by_class = {f"c{i}": 1 - i / 100 for i in range(MAX_CLASSES + 5)}
    table, note = further_table(study_of(tmp_path, [by_class]))
    assert table is not None
    assert list(table.headers[-MAX_CLASSES:]) == [f"c{i}" for i in range(5, MAX_CLASSES + 5)]
    assert f"{MAX_CLASSES} of {MAX_CLASSES + 5} classes" in note


def test_a_study_without_such_measures_has_no_table(tmp_path: Path) -> None:
    Store(RunFolder(tmp_path)).write(record(), [metric(0.8)], [])
    assert further_table(Study.read([tmp_path])) == (None, "")
