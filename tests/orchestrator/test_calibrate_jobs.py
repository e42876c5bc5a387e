"""Jobs of kind calibrate on the outputs of finished runs: fitting splits, reported metrics, and refused specs."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from pruneyard import run
from pruneyard.orchestrator.errors import ExitCode, SpecError
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.reports.predictions import read_predictions
from pruneyard.workloads.calibrate.methods.temperature import Temperature
from pruneyard.workloads.calibrate.outputs import averaged
from pruneyard.workloads.metrics.classification import all_metrics

DIGITS = {"name": "digits", "max_train": 900, "max_test": 200}
TRAIN: dict[str, Any] = {
    "name": "nets",
    "kind": "sparse",
    "data": DIGITS,
    "model": {"name": "mlp", "width": 16},
    "method": {"name": "static", "density": 0.5},
    "budget": {"epochs": 6, "batch_size": 32},
    "ood": ["noise"],
    "seeds": 3,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("nets")
    assert run(TRAIN, folder, local=True).exit_code == ExitCode.FINISHED
    return folder


def calibrate(trained: Path, **fields: Any) -> dict[str, Any]:
    return {"name": "trust", "kind": "calibrate", "input": {"from": str(trained)}, **fields}


def values(results: Results) -> pd.Series:
    """Returns every metric by run, split and name."""
    return results.metrics().set_index(["run_key", "split", "name"])["value"]


def test_without_a_calibrator_the_networks_own_metrics_come_out(trained: Path, tmp_path: Path) -> None:
    results = run(calibrate(trained), tmp_path, local=True)
    found, runs = values(results), results.runs()
    theirs = Results(trained).metrics()
    last = theirs[theirs["step"] == theirs["step"].max()].set_index(["run_key", "split", "name"])["value"]
    assert len(runs) == 3
    for _, row in runs.iterrows():
        for split, name in (("test", "accuracy"), ("test", "nll"), ("test", "ece"), ("val", "brier"), ("ood", "auroc")):
            at = (row["run_key"], split, name)
            assert found[at] == pytest.approx(last[(row["parent_key"], split, name)], abs=2e-6)
    assert list(runs["model"]) == ["mlp"] * 3
    assert list(runs["density"]) == [0.5] * 3
    assert sorted(runs["seed"]) == [0, 1, 2]


def test_the_temperature_is_fitted_on_calib_and_judged_on_test(trained: Path, tmp_path: Path) -> None:
    results = run(calibrate(trained, method="temperature"), tmp_path, local=True)
    found = values(results)
    for _, row in results.runs().iterrows():
        stored = read_predictions(trained / "artifacts" / row["parent_key"] / "predictions.parquet")
        _, labels, logits = stored["calib"]
        fitted = Temperature().fit(logits.astype(np.float64), labels, seed=row["seed"])
        assert found[(row["run_key"], "fit", "temperature")] == fitted.numbers["temperature"]
        _, test_labels, test_logits = stored["test"]
        expected = all_metrics(fitted.log_probabilities(test_logits.astype(np.float64)), test_labels, seed=row["seed"])
        for name, value in expected.items():
            assert found[(row["run_key"], "test", name)] == pytest.approx(value, rel=1e-12)
        tensors = safetensors.numpy.load_file(tmp_path / "artifacts" / row["run_key"] / "calibrator.safetensors")
        again = Temperature().restore(tensors)
        assert np.array_equal(again.log_probabilities(logits), fitted.log_probabilities(logits))
    assert "calib" not in set(results.metrics()["split"])  # the split that it was fitted on is not judged


def test_the_split_to_fit_on_can_be_changed_but_is_never_test(trained: Path, tmp_path: Path) -> None:
    results = run(calibrate(trained, method="temperature", fit="val"), tmp_path, local=True)
    assert set(results.metrics()["split"]) >= {"calib", "test"}
    assert "val" not in set(results.metrics()["split"])
    with pytest.raises(SpecError, match="fit: is \"test\"; it must be one of calib, val"):
        load_spec(calibrate(trained, fit="test"))


def test_members_are_averaged_as_probabilities_before_calibration(trained: Path, tmp_path: Path) -> None:
    table = calibrate(trained, keep_predictions=True) | {"input": {"from": str(trained), "over": "seed"}}
    results = run(table, tmp_path, local=True)
    (row,) = results.runs().to_dict("records")
    assert len(row["parent_key"].split(",")) == 3
    members = [
        read_predictions(trained / "artifacts" / key / "predictions.parquet")["test"][2].astype(np.float64)
        for key in row["parent_key"].split(",")
    ]
    _, labels, stored = read_predictions(tmp_path / "artifacts" / row["run_key"] / "predictions.parquet")["test"]
    plain = np.mean([np.exp(m) / np.exp(m).sum(axis=1, keepdims=True) for m in members], axis=0)
    assert np.exp(stored) == pytest.approx(plain, abs=1e-6)
    assert np.exp(averaged(members)).sum(axis=1) == pytest.approx(np.ones(len(labels)))
    alone = run(calibrate(trained), tmp_path / "alone", local=True)
    nll = values(alone).xs("nll", level=2).xs("test", level=1)
    assert values(results)[(row["run_key"], "test", "nll")] < nll.mean()  # by convexity, for any members


def test_averaging_one_member_is_that_member() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 3))
    assert np.exp(averaged([logits])) == pytest.approx(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    assert averaged([logits, logits]) == pytest.approx(averaged([logits]))


def test_sets_are_fitted_on_rows_that_the_calibrator_has_not_seen(trained: Path, tmp_path: Path) -> None:
    """The sets cover about what they promise, and change no number of the calibrator itself."""
    whole = values(run(calibrate(trained, method="temperature"), tmp_path / "whole", local=True))
    halved = run(calibrate(trained, method="temperature", sets=["split", "aps"]), tmp_path / "half", local=True)
    found = values(halved)
    for split, name in (("fit", "temperature"), ("test", "nll"), ("test", "ece")):
        with_sets, without = (part.xs(split, level=1).xs(name, level=1) for part in (found, whole))
        assert sorted(with_sets) == sorted(without)
    for rule in ("split", "aps"):
        coverage = found.xs(f"sets@{rule}", level=1).xs("coverage", level=1)
        assert 0.8 < coverage.mean() <= 1.0
    sizes = halved.curves().query("name == 'set_size'")
    assert sizes.groupby(["run_key", "key"])["y"].sum().to_numpy() == pytest.approx(np.ones(6))


def test_sets_take_all_rows_where_no_calibrator_was_fitted(trained: Path, tmp_path: Path) -> None:
    """A threshold for each class needs 9 rows of it at alpha 0.1: of half the rows, 8 of 10 classes had none."""
    table = calibrate(trained, method="none", sets=[{"name": "split", "by_class": True}])
    found = values(run(table, tmp_path, local=True)).xs("sets@split", level=1)
    halved = calibrate(trained, method="temperature", sets=[{"name": "split", "by_class": True}])
    fewer = values(run(halved, tmp_path / "halved", local=True)).xs("sets@split", level=1)
    assert (found.xs("infinite_thresholds", level=1) == 0).all()
    assert found.xs("set_size", level=1).mean() < fewer.xs("set_size", level=1).mean()


def test_ood_sets_are_evaluated_by_the_network(trained: Path, tmp_path: Path) -> None:
    table = calibrate(trained, far=["noise"], scores=["energy", {"name": "knn", "k": 5}, "mahalanobis"])
    results = run(table, tmp_path, local=True)
    assert results.exit_code == ExitCode.FINISHED, list(results.runs()["error"])
    found = values(results)
    theirs = values(Results(trained))
    for _, row in results.runs().iterrows():
        shown = found[(row["run_key"], "ood", "auroc")]
        assert shown == pytest.approx(theirs[(row["parent_key"], "ood", "auroc")], abs=1e-6)
        for score in ("energy", "knn", "mahalanobis"):
            of_score = found[(row["run_key"], f"ood@{score}", "auroc")]
            assert of_score == found[(row["run_key"], f"ood.far@{score}", "auroc")]
            assert 0.5 < of_score <= 1
    histogram = results.curves().query("name == 'score' and key == 'test@energy'")
    assert histogram.groupby("run_key")["y"].sum().to_numpy() == pytest.approx(np.ones(3))


def test_stored_outputs_are_enough_for_scores_of_logits(trained: Path, tmp_path: Path) -> None:
    found = values(run(calibrate(trained, scores=["max_logit"]), tmp_path, local=True))
    assert len(found.xs("ood@max_logit", level=1)) > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scores": ["knn"]}, "set near or far"),
        ({"choose_on": ["noise"]}, "there are no scores"),
        ({"sets": ["aps", "aps"]}, "each name must be unique"),
        ({"num_bins": 0}, "it must be 1 or more"),
        ({"method": "temprature"}, "did you mean temperature?"),
    ],
)
def test_what_cannot_be_is_refused(trained: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(calibrate(trained, **fields))


def test_an_ensemble_has_no_network_to_show_anything_to(trained: Path) -> None:
    table = calibrate(trained, far=["noise"]) | {"input": {"from": str(trained), "over": "seed"}}
    with pytest.raises(SpecError, match="an ensemble has none"):
        load_spec(table)


def test_calibrating_twice_gives_the_same_numbers(trained: Path, tmp_path: Path) -> None:
    table = calibrate(trained, method="isotonic", sets=["raps_tuned"])
    first, second = (values(run(table, tmp_path / name, local=True)) for name in ("a", "b"))
    assert first.equals(second)


def test_calibrate_runs_in_the_folder_are_left_out_by_name(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(trained, tmp_path / "both")
    both = tmp_path / "both"
    run(calibrate(both, name="none"), both, local=True)
    assert Results(both).runs()["kind"].value_counts().to_dict() == {"sparse": 3, "calibrate": 3}
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        jobs = load_spec(calibrate(both, grid={"method": ["temperature", "vector"]})).jobs
    assert len(jobs) == 2 * 3
    said = "input.from: 3 of 6 runs are left out: 3 of kind calibrate with no predictions"
    assert [record.getMessage() for record in caplog.records] == [said]
    with pytest.raises(SpecError, match=r"input\.from: names 3 runs, none of which has predictions of test and calib: 3 of kind"):
        load_spec(calibrate(both, input={"from": str(both), "where": {"kind": "calibrate"}}))
    key = next(job for job in load_spec(calibrate(trained)).jobs).key
    with pytest.raises(SpecError, match=r"input\.runs: names 1 runs, none of which has predictions"):
        load_spec(calibrate(both, input={"runs": [key], "folder": str(both)}))


def test_runs_without_calib_rows_are_refused_or_left_out_before_any_job_starts(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = {**TRAIN, "data": {**DIGITS, "calib_fraction": 0}, "budget": {"steps": 2, "batch_size": 32}, "seeds": 1}
    run(tables, tmp_path / "without", local=True)
    with pytest.raises(SpecError, match="1 of kind sparse with no predictions of calib; runs have calib rows unless"):
        load_spec(calibrate(tmp_path / "without"))
    assert len(load_spec(calibrate(tmp_path / "without", fit="val")).jobs) == 1
    stages = {"train": {**tables, "name": None}, "trust": {"kind": "calibrate", "input": {"from": "train"}}}
    del stages["train"]["name"]
    with pytest.raises(SpecError, match="none of which has predictions of test and calib: 1 of kind sparse"):
        load_spec({"name": "chain", "stages": stages})
    stages["train"]["grid"] = {"data.calib_fraction": [0, 0.1]}
    caplog.clear()
    assert len(load_spec({"name": "chain", "stages": stages}).jobs) == 2 + 1
    assert "1 of 2 runs are left out: 1 of kind sparse with no predictions of calib" in caplog.text
