"""Calibrate jobs on files of outputs: every method on every format, several models, run keys by content, and refused specs."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from user_outputs import made_up, probabilities_of, write_outputs

from pruneyard import run
from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.workloads.calibrate.job import CalibrateJob
from pruneyard.workloads.calibrate.methods.temperature import Temperature
from pruneyard.workloads.calibrate.ood_detection import uses_logits_only
from pruneyard.workloads.calibrate.user_outputs.input import Input
from pruneyard.workloads.metrics.classification import all_metrics
from pruneyard.workloads.plugins import find, names

LOGITS, LABELS = made_up(300, 4)
SPLIT = np.where(np.arange(300) % 3 == 0, "calib", np.where(np.arange(300) < 40, "ood.far", "test"))
SCORES = [name for name in names("calibrate.scores") if uses_logits_only(find("calibrate.scores", name))]
OTHERS = sorted(set(names("calibrate.scores")) - set(SCORES))


def spec(path: Path | str, **fields: Any) -> dict[str, Any]:
    given = fields.pop("input", {})
    return {"name": "own", "kind": "calibrate", "input": {"path": str(path), **given}, **fields}


def values(results: Results) -> dict[tuple[str, str, str], float]:
    """Every metric by model and method, split and name."""
    named = {row["run_key"]: f"{row['model']} {row['method']}" for _, row in results.runs().iterrows()}
    table = results.metrics()
    return {
        (named[key], split, name): value
        for key, split, name, value in zip(table["run_key"], table["split"], table["name"], table["value"], strict=True)
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_outputs(tmp_path_factory.mktemp("own") / "resnet50.parquet", LOGITS, LABELS, split=SPLIT)


def test_every_calibrator_rule_and_score_of_logits_works_on_a_file(file: Path, tmp_path: Path) -> None:
    methods, rules = names("calibrate.methods"), names("calibrate.conformal")
    settings = {name: getattr(find("calibrate.conformal", name), "examples", ({},))[0] for name in rules}
    sets = [{"name": name, **table} for name, table in settings.items()]
    fields = {"sets": sets, "scores": SCORES, "keep_predictions": True, "grid": {"method": methods}}
    results = run(spec(file, **fields), tmp_path, local=True)
    assert results.exit_code == 0, list(results.runs()["error"])
    found = values(results)
    assert len(results.runs()) == len(methods)
    for method in methods:
        label = f"resnet50 {method}"
        assert 0 < found[label, "test", "accuracy"] < 1
        for rule in rules:
            assert 0.8 < found[label, f"sets@{rule}", "coverage"] <= 1
        for score in SCORES:
            assert 0 <= found[label, f"ood.far@{score}", "auroc"] <= 1


def test_the_numbers_are_those_of_the_functions_behind_them(file: Path, tmp_path: Path) -> None:
    found = values(run(spec(file, method="temperature"), tmp_path, local=True))
    calib, test = SPLIT == "calib", SPLIT == "test"
    fitted = Temperature().fit(LOGITS[calib], LABELS[calib], seed=0)
    assert found["resnet50 temperature", "fit", "temperature"] == fitted.numbers["temperature"] > 1.5
    for name, value in all_metrics(fitted.log_probabilities(LOGITS[test]), LABELS[test]).items():
        assert found["resnet50 temperature", "test", name] == value


def test_every_format_gives_the_same_table(file: Path, tmp_path: Path) -> None:
    found = []
    for suffix in (".parquet", ".npz", ".csv"):
        again = write_outputs(tmp_path / f"resnet50{suffix}", LOGITS, LABELS, split=SPLIT)
        found.append(values(run(spec(again, method="isotonic"), tmp_path / suffix, local=True)))
    assert found[0] == found[1] == found[2]


def test_a_file_of_several_models_makes_a_job_for_each_with_its_name(tmp_path: Path) -> None:
    model = np.where(np.arange(300) % 2 == 0, "small", "large")
    both = write_outputs(tmp_path / "zoo.csv", LOGITS, LABELS, model=model)
    results = run(spec(both, grid={"method": ["none", "temperature"]}), tmp_path / "out", local=True)
    runs = results.runs()
    assert sorted(zip(runs["model"], runs["method"], strict=True)) == [
        ("large", "none"), ("large", "temperature"), ("small", "none"), ("small", "temperature")
    ]  # fmt: skip
    assert [job.label for job in load_spec(spec(both)).jobs] == ["small none seed=0", "large none seed=0"]
    alone = write_outputs(tmp_path / "small.csv", LOGITS[::2], LABELS[::2])
    expected = values(run(spec(alone), tmp_path / "alone", local=True))
    found = values(results)
    assert {key: found[key] for key in expected} == expected


def test_several_files_are_an_axis(tmp_path: Path) -> None:
    paths = [
        str(write_outputs(tmp_path / f"net{sharpness}.npz", *made_up(200, 3, sharpness=sharpness))) for sharpness in (1, 3)
    ]
    table = {"name": "own", "kind": "calibrate", "grid": {"input.path": paths}, "method": "temperature"}
    results = run(table, tmp_path / "out", local=True)
    assert sorted(results.runs()["model"]) == ["net1", "net3"]
    summary = results.summary()
    assert sorted(summary["model"]) == ["net1", "net3"]
    assert list(summary["num_seeds"]) == [1, 1]
    assert summary.attrs["settings"] == []  # the names tell them apart; digests say nothing to people


def test_seeds_of_one_file_are_no_replicates(tmp_path: Path) -> None:
    """They would have the same numbers, and an interval of width 0."""
    path = write_outputs(tmp_path / "net.npz", LOGITS, LABELS)
    results = run(spec(path, method="temperature", seeds=3), tmp_path / "out", local=True)
    (row,) = results.summary(columns="all").to_dict("records")
    assert row["num_seeds"] == 3
    assert row["test/ece"] > 0
    assert math.isnan(row["test/ece_low"])


def test_the_page_names_the_files_and_says_how_rows_are_cut(tmp_path: Path) -> None:
    path = write_outputs(tmp_path / "<net>.npz", LOGITS, LABELS)
    results = run(spec(path, input={"calib_fraction": 0.25, "split_seed": 7}), tmp_path / "out", local=True)
    text = results.report(tmp_path / "page.html").read_text()
    assert "&lt;net&gt;.npz; rows without a named split are cut: 0.25 of each class to fit on (split_seed 7)" in text
    assert "<net>" not in text


def test_the_content_of_a_file_is_part_of_the_run_key_and_its_place_is_not(file: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.parquet"
    moved.write_bytes(file.read_bytes())
    (before,), (after,) = load_spec(spec(file)).jobs, load_spec(spec(moved)).jobs
    assert before.key == after.key
    results = run(spec(moved), tmp_path / "out", local=True)
    write_outputs(moved, LOGITS * 0.5, LABELS, split=SPLIT)
    assert load_spec(spec(moved)).jobs[0].key != before.key
    changed = run(spec(moved), tmp_path / "out", local=True)
    assert len(changed.runs()) == 2
    first, second = (row["run_key"] for _, row in changed.runs().iterrows())
    assert {first, second} == {before.key, load_spec(spec(moved)).jobs[0].key}
    assert len(changed.summary()) == 2  # two settings: outputs of different files are never averaged
    assert results.folder.path == changed.folder.path


def test_a_cut_is_stated_when_a_spec_is_planned_or_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_outputs(tmp_path / "net.npz", probabilities_of(LOGITS), LABELS, kind="probabilities")
    with caplog.at_level(logging.WARNING):
        run(spec(path), tmp_path / "out", local=True)
    note = "4 classes, given as probabilities, cut by class with split_seed 0 into 150 calib, 150 test"
    assert f"300 rows of model net, {note}" in caplog.text
    seeds = spec(path, grid={"input.split_seed": [0, 1]})
    assert len({job.key for job in load_spec(seeds).jobs}) == 2


def test_a_positive_class_adds_its_own_metrics(tmp_path: Path) -> None:
    logits, labels = made_up(400, 2)
    path = write_outputs(tmp_path / "net.npz", logits, labels)
    found = values(run(spec(path, positive=1), tmp_path / "out", local=True))
    other = values(run(spec(path, positive=0), tmp_path / "zero", local=True))
    plain = values(run(spec(path), tmp_path / "plain", local=True))
    assert found["net none", "test", "auroc_positive"] == pytest.approx(other["net none", "test", "auroc_positive"])
    assert found["net none", "test", "brier_positive"] == pytest.approx(plain["net none", "test", "brier"] / 2)
    assert ("net none", "test", "auroc_positive") not in plain
    score = write_outputs(tmp_path / "net.csv", probabilities_of(logits)[:, 1:], labels, kind="probabilities")
    single = values(run(spec(score), tmp_path / "single", local=True))
    assert single["net none", "test", "auroc_positive"] == found["net none", "test", "auroc_positive"]
    assert single["net none", "test", "ece"] == pytest.approx(plain["net none", "test", "ece"])


def test_the_reliability_of_the_positive_class_is_recorded_and_drawn(tmp_path: Path) -> None:
    logits, labels = made_up(400, 2)
    path = write_outputs(tmp_path / "net.npz", logits, labels)
    results = run(spec(path, positive=1, method="none", num_bins=4, grid={"method": ["none", "temperature"]}), tmp_path / "out",
                  local=True)
    curves, runs = results.curves(), results.runs()
    key = runs.loc[runs["method"] == "none", "run_key"].item()
    points = curves[(curves["name"] == "reliability_positive") & (curves["run_key"] == key)].sort_values("x")
    assert set(points["key"]) == {"test"}
    assert points["x"].min() < 0.5 < points["x"].max()
    error = (points["count"] * (points["y"] - points["x"]).abs()).sum() / points["count"].sum()
    assert error == pytest.approx(values(results)["net none", "test", "ece_positive"])
    page = Path(results.report(tmp_path / "page.html")).read_text(encoding="utf-8")
    assert 'id="trust-positive"' in page
    assert "Observed frequency by mean probability of the positive class, not calibrated" in page
    assert 'id="trust-reliability"' in page
    other = run(spec(path, grid={"method": ["none", "temperature"]}), tmp_path / "plain", local=True)
    assert "reliability_positive" not in set(other.curves()["name"])
    assert 'id="trust-positive"' not in Path(other.report(tmp_path / "plain.html")).read_text(encoding="utf-8")


@pytest.mark.parametrize("positive", [-1, 2])
def test_the_positive_class_of_runs_is_0_or_1(positive: int) -> None:
    runs = Input(runs=("0123456789abcdef",))
    assert CalibrateJob(input=runs, positive=1).positive == 1
    with pytest.raises(ValueError, match=f"positive is {positive}; it must be 0 or 1"):
        CalibrateJob(input=runs, positive=positive)


@pytest.mark.parametrize("name", OTHERS)
def test_scores_that_need_the_network_are_refused_by_name_and_reason(file: Path, name: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(spec(file, scores=["energy", {"name": name}]))
    assert f"scores[1]: is {name}, but {file} holds outputs without their network and {name} needs" in str(caught.value)
    assert f"it must be one of {', '.join(SCORES)}" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"far": ["noise"]}, "far: is noise, but .*resnet50.parquet holds outputs without their network; leave it out, and give"),
        ({"dropout_passes": 5}, "dropout_passes: is 5, but .* holds outputs without their network; it must be 0"),
        ({"swag_samples": 5}, "swag_samples: is 5, but "),
        ({"input": {"from": "somewhere"}}, "input.from: is \"somewhere\"; there is no such folder, and this spec has no earl"),
        ({"input": {"calib_fraction": 1.0}}, r"input.calib_fraction: is 1.0; it must lie in \(0, 1\)"),
        ({"input": {"colums": {}}}, "input.colums: is unknown; .*did you mean columns?"),
        ({"input": {"columns": {"lable": "y"}}}, "input.columns.lable: is unknown; .*did you mean label?"),
        ({"positive": 2}, "positive: is 2; it must be 0 or 1"),
        ({"fit": "val"}, "of which .*: there must be rows of split val, to fit on"),
    ],
)
def test_what_a_file_cannot_give_is_refused_before_any_job_starts(
    file: Path, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        run(spec(file, **fields), tmp_path, local=True)
    assert not (tmp_path / "results").exists()


def test_scores_need_ood_rows_and_file_keys_a_path(file: Path, tmp_path: Path) -> None:
    plain = write_outputs(tmp_path / "net.npz", LOGITS, LABELS)
    with pytest.raises(SpecError, match=r"scores: is energy; .*net.npz.*: there must be rows of OOD inputs"):
        run(spec(plain, scores=["energy"]), tmp_path / "out", local=True)
    results = run(spec(file), tmp_path / "out", local=True)
    key = results.runs()["run_key"][0]
    beside = {"runs": [key], "folder": str(tmp_path / "out"), "split_seed": 3}
    with pytest.raises(SpecError, match="input"):
        load_spec({"name": "own", "kind": "calibrate", "input": beside})
