"""Segmented trainings on the page: parents, the best lineage by the objective of the search, and its schedule."""

import json
from pathlib import Path

import pytest
from made_up_study import metric, record

from pruneyard.reports.charts.lineages import settings_over_time
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.lineage import lineages, schedule
from pruneyard.reports.page import write_page
from pruneyard.reports.planned import Population, read_plan, read_populations, write_plan
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study

RUNS = [  # name, parent, share at its end, lr, val accuracy and val nll of the first seed
    ("a1", "", 0.5, 0.1, 0.80, 0.60),
    ("b1", "", 0.5, 0.01, 0.50, 0.90),
    ("a2", "a1", 1.0, 0.1, 0.85, 0.40),
    ("b2", "a1", 1.0, 0.12, 0.90, 0.45),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Writes two members in two generations, with two seeds; the second member is replaced by a copy of the first."""
    store = Store(RunFolder(tmp_path))
    for name, parent, until, lr, accuracy, nll in RUNS:
        for seed in (0, 1):
            segment = {"runs": [f"{parent}{seed}"] if parent else [], "until": until}
            spec = {
                "kind": "sparse",
                "seed": seed,
                "optimizer": {"name": "sgd", "lr": lr},
                "segment": segment,
            }
            known = {"until": until, **({"after": parent} if parent else {})}
            row = record(
                f"{name}{seed}",
                seed=seed,
                parent_key=f"{parent}{seed}" if parent else None,
                spec_json=json.dumps(spec),
                identity_json=json.dumps({**spec, "segment": known}),
            )
            step = int(100 * until)
            rows = [
                metric(accuracy + 0.02 * seed, step=step, split="val"),
                metric(nll + 0.02 * seed, step=step, name="nll", split="val"),
                metric(0.5, step=step),
            ]
            store.write(row, rows, [])
    return tmp_path


def test_the_best_lineage_is_shown_from_its_first_segment(folder: Path) -> None:
    (found,) = lineages(Study.read([folder]))
    assert (found.stage, found.measure, found.names) == ("", "val/accuracy", ["optimizer.lr"])
    best, other = found.lines
    assert [(part.until, part.settings["optimizer.lr"], part.changed) for part in best] == [
        (0.5, 0.1, False),
        (1.0, 0.12, True),
    ]
    assert [(part.until, part.settings["optimizer.lr"], part.changed) for part in other] == [
        (0.5, 0.1, False),
        (1.0, 0.1, False),
    ]
    assert best[1].mean == pytest.approx(0.91), "the mean over both seeds"
    assert len(best[1].values) == 2


def test_the_best_lineage_is_chosen_by_the_objective_of_the_search(folder: Path) -> None:
    keys = frozenset(f"{name}{seed}" for name, *_ in RUNS for seed in (0, 1))
    write_plan(RunFolder(folder), ["a10"], {"": Population("val/nll", "min", keys)})
    assert read_populations(RunFolder(folder)) == {"": Population("val/nll", "min", keys)}
    assert read_plan(RunFolder(folder)) == {"a10"}
    (found,) = lineages(Study.read([folder]))
    assert found.lines[0][-1].settings["optimizer.lr"] == 0.1
    rows = schedule(Study.read([folder]))
    assert list(rows["until"]) == [0.5, 1.0]
    assert list(rows["val/nll"]) == pytest.approx([0.61, 0.41])


def test_populations_that_share_runs_are_shown_completely(folder: Path) -> None:
    """A run is computed once and has one stage in the table, even if other populations contain it."""
    first = frozenset({"a10", "a11", "b10", "b11", "a20", "a21"})
    second = frozenset({"a10", "a11", "b20", "b21"})
    populations = {
        "one": Population("val/accuracy", "max", first),
        "other": Population("val/accuracy", "max", second),
    }
    write_plan(RunFolder(folder), [], populations)
    lines_by_stage = {found.stage: found.lines for found in lineages(Study.read([folder]))}
    assert {
        stage: [[part.settings["optimizer.lr"] for part in line] for line in lines]
        for stage, lines in lines_by_stage.items()
    } == {
        "one": [[0.1, 0.1]],
        "other": [[0.1, 0.12]],
    }


def test_a_plan_of_an_earlier_version_chooses_by_nothing_of_its_own(folder: Path) -> None:
    RunFolder(folder).plan.write_text(json.dumps({"run_keys": ["a10"]}))
    assert read_populations(RunFolder(folder)) == {}
    assert lineages(Study.read([folder]))[0].measure == "val/accuracy"


def test_the_page_shows_the_schedule_of_the_best(folder: Path) -> None:
    (figure,) = settings_over_time(Study.read([folder]))
    assert figure.table is not None
    assert [[value.text for value in row][:2] for row in figure.table.rows] == [["0.5", "0.1"], ["1", "0.12"]]
    assert [row[-1].text for row in figure.table.rows] == ["initial", "changed"]
    assert "0.1 up to 0.5, 0.12 up to 1" in figure.panels[0].words
    page = write_page([folder], folder / "report.html").read_text()
    assert "Hyperparameter schedules" in page
    assert "Schedule of the best training" in page


def test_a_study_of_whole_trainings_has_none(tmp_path: Path) -> None:
    Store(RunFolder(tmp_path)).write(record("a"), [metric(0.5, step=1, split="val")], [])
    assert settings_over_time(Study.read([tmp_path])) == []
    assert schedule(Study.read([tmp_path])).empty
