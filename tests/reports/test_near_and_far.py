"""Near and far OOD sets side by side, and calibrators compared on the same input runs only."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_up_study import metric, record

from pruneyard.reports.charts.scores import score_distributions
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import CurveRow
from pruneyard.reports.store import Store
from pruneyard.reports.study import Study
from pruneyard.reports.tables import best_cells
from pruneyard.reports.trust.calibrated_cells import calibrated_cells, grouped_by_input
from pruneyard.reports.trust.detection import detection_table

NEAR, FAR = ("image_parquet-1", "image_parquet-2"), "noise"
NLL = {
    ("dense", "none"): 0.9,
    ("dense", "temperature"): 0.5,
    ("static", "none"): 0.4,
    ("static", "temperature"): 0.2,
}
AUROC = {"none": 0.6, "temperature": 0.7}


def write_sweep(path: Path, *, seeds: int = 3) -> Study:
    """Writes two kinds of network with two calibrators on each; the static networks are better than the dense ones by far."""
    store = Store(RunFolder(path))
    pictures = {"name": "image_parquet"}
    for seed in range(seeds):
        for (method, calibrator), nll in NLL.items():
            parent = {"kind": "sparse", "method": {"name": method}}
            if calibrator == "none":
                run = record(
                    f"{method}{seed}", seed=seed, stage="train", method=method, spec_json=json.dumps(parent)
                )
                store.write(run, [metric(nll + 0.001 * seed, name="nll")], [])
            spec: dict[str, Any] = {
                "input": {"runs": parent},
                "method": {"name": calibrator},
                "near": [pictures, pictures],
                "far": [{"name": FAR}],
            }
            made = record(
                f"{method}{calibrator}{seed}",
                seed=seed,
                stage="judge",
                kind="calibrate",
                method=calibrator,
                parent_key=f"{method}{seed}",
                spec_json=json.dumps(spec),
            )
            rows = [metric(nll + 0.001 * seed, name="nll"), metric(0.9, name="accuracy")]
            curves = []
            for split in (*(f"ood.{name}" for name in (*NEAR, FAR)), "ood.near", "ood.far"):
                rows.append(metric(AUROC[calibrator] + 0.001 * seed, name="auroc", split=split))
                rows.append(metric(0.8 + 0.001 * seed, name="auroc", split=f"{split}@energy"))
            for split in ("test", *(f"ood.{name}" for name in (*NEAR, FAR))):
                for score in ("", "@energy"):
                    curves += [
                        CurveRow(name="score", step=10, key=f"{split}{score}", x=x, y=0.5, count=50)
                        for x in (0.1, 0.2, 0.5)
                    ]
            store.write(made, rows, curves)
    return Study.read([path])


def test_calibrators_are_compared_on_the_same_earlier_runs_only(tmp_path: Path) -> None:
    study = write_sweep(tmp_path)
    best = study.cells[study.cells["cell"].isin(best_cells(study.cells, "test/nll"))]
    named = {(row["stage"], row["method"], str(row["input.runs.method.name"])) for _, row in best.iterrows()}
    assert named == {
        ("train", "static", "nan"),
        ("judge", "temperature", "dense"),
        ("judge", "temperature", "static"),
    }


def test_scores_of_the_same_runs_are_shown_together(tmp_path: Path) -> None:
    cells = grouped_by_input(calibrated_cells(write_sweep(tmp_path)))
    assert [(cell.parent, cell.calibrator) for cell in cells] == list(NLL)


def test_a_score_that_no_calibrator_changes_is_shown_once(tmp_path: Path) -> None:
    study = write_sweep(tmp_path)
    table = detection_table(study, calibrated_cells(study), each_set=False)
    assert table is not None
    means = ["near AUROC", "far AUROC"]  # no run recorded another measure
    assert table.headers == ["input", "calibrator", "score", "seeds", "in-distribution samples", "OOD samples", *means]
    shown = [tuple(value.text for value in row[:3]) for row in table.rows]
    of_each = [("none", "confidence"), ("temperature", "confidence"), ("any", "energy")]
    assert shown == [(parent, *labels) for parent in ("dense", "static") for labels in of_each]
    assert [row[6].is_best for row in table.rows] == [False, False, True] * 2


def test_the_probability_of_the_network_is_not_listed_beside_its_confidence_and_sets_say_their_size(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    store = Store(RunFolder(tmp_path))
    parent = {"kind": "sparse", "method": {"name": "dense"}}
    spec = {"input": {"runs": parent}, "method": {"name": "none"}, "far": [{"name": FAR}]}
    rows = [metric(0.6, name="auroc", split=f"ood.{part}{score}") for part in ("far", FAR) for score in ("", "@msp", "@odin")]
    curves = [CurveRow(name="score", step=10, key=f"ood.{FAR}", x=0.1, y=1.0, count=1200)]
    for seed in range(2):
        made = record(f"m{seed}", seed=seed, kind="calibrate", method="none", data="other", spec_json=json.dumps(spec))
        store.write(made, rows, curves)
    study = Study.read([tmp_path])
    cells = [cell for cell in calibrated_cells(study) if cell.runs.index[0] == "m0"]
    table = detection_table(study, cells, each_set=False)
    assert table is not None
    place = table.headers.index("OOD samples")
    assert {row[place].text for row in table.rows} == {"1,200"}
    assert "msp" not in {value.text for row in table.rows for value in row}
    assert "odin" in {value.text for row in table.rows for value in row}
    sweep = detection_table(study, calibrated_cells(study), each_set=False)
    assert sweep is not None
    assert "near 300, far 150" in {value.text for row in sweep.rows for value in row}


def test_a_calibrator_in_two_stages_is_bold_in_both_or_in_neither(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    store = Store(RunFolder(tmp_path))
    for seed in range(3):
        parent = {"kind": "sparse", "method": {"name": "static"}}
        for method, nll in (("none", 0.4), ("temperature", 0.2)):
            spec = json.dumps({"input": {"runs": parent}, "method": {"name": method}, "far": []})
            columns = {"seed": seed, "stage": "again", "kind": "calibrate", "method": method, "parent_key": f"static{seed}"}
            made = record(f"again{method}{seed}", **columns, spec_json=spec)
            store.write(made, [metric(nll + 0.001 * seed, name="nll")], [])
    study = Study.read([tmp_path])
    best = study.cells[study.cells["cell"].isin(best_cells(study.cells, "test/nll"))]
    judged = best[(best["kind"] == "calibrate") & (best["input.runs.method.name"] == "static")]
    assert sorted(zip(judged["stage"], judged["method"], strict=True)) == [("again", "temperature"), ("judge", "temperature")]


def test_sets_say_whether_they_are_near_or_far_the_near_ones_first(tmp_path: Path) -> None:
    study = write_sweep(tmp_path)
    table = detection_table(study, calibrated_cells(study), each_set=True)
    assert table is not None
    assert [header for header in table.headers if header.endswith("AUROC")] == [
        "near: image_parquet-1 AUROC",
        "near: image_parquet-2 AUROC",
        "far: noise AUROC",
    ]
    (figure,) = score_distributions(study, calibrated_cells(study))
    assert [entry.label for entry in figure.legend][1:] == [
        "near: image_parquet-1",
        "near: image_parquet-2",
        "far: noise",
    ]
    assert len(figure.panels) == 6


def test_a_histogram_has_every_bin_so_that_its_line_falls_to_nothing_between(tmp_path: Path) -> None:
    study = write_sweep(tmp_path, seeds=1)
    (figure,) = score_distributions(study, calibrated_cells(study))
    spec = json.loads(figure.panels[0].spec)
    values = spec["datasets"][spec["layer"][0]["data"]["name"]]
    assert [value["y"] for value in values] == [0.5, 0.5, 0, 0, 0.5, 0]
    assert values[0]["x"] == pytest.approx(0.05)
    assert values[-1]["x"] == pytest.approx(0.55)
