"""`pruneyard.evaluate` and `pruneyard.calibrate`: examples, the numbers of calibrate jobs on the same rows, refused arrays."""

import doctest
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from user_outputs import made_up, probabilities_of, write_outputs

import pruneyard
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.outputs import calibration, evaluation

LOGITS, LABELS = made_up(300, 4)
SPLIT = np.where(np.arange(300) % 3 == 0, "calib", np.where(np.arange(300) < 40, "ood.far", "test"))


def of_job(file: Path, out: Path, **fields: Any) -> dict[str, float]:
    """Every metric by `split/name` of a calibrate job on a file."""
    results = pruneyard.run({"name": "own", "kind": "calibrate", "input": {"path": str(file)}, **fields}, out, local=True)
    table = results.metrics()
    return {f"{split}/{name}": value for split, name, value in zip(table["split"], table["name"], table["value"], strict=True)}


@pytest.mark.parametrize("module", [calibration, evaluation])
def test_the_examples_of_docstrings_are_true(module: Any) -> None:
    assert doctest.testmod(module).attempted > 1
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_calibrate_gives_the_numbers_of_a_job_with_named_splits(tmp_path: Path, kind: str) -> None:
    values = LOGITS if kind == "logits" else probabilities_of(LOGITS)
    file = write_outputs(tmp_path / "net.npz", values, LABELS, kind=kind, split=SPLIT)
    fields = {"method": {"name": "isotonic", "one_vs_rest": True}, "sets": ["aps"], "scores": ["energy"]}
    given: Any = {kind: values, "labels": LABELS, "splits": SPLIT, **fields}
    found = pruneyard.calibrate(**given)
    assert found.after == of_job(file, tmp_path / "after", **fields)
    assert found.before == of_job(file, tmp_path / "before")
    assert found.table().loc["after", "ece"] == found.after["test/ece"] < found.before["test/ece"]
    assert found.note.startswith(f"{kind}: 300 rows, 4 classes, given as {kind}, of which 100 calib, 26 ood.far, 174 test")


def test_calibrate_cuts_rows_as_a_job_does(tmp_path: Path) -> None:
    file = write_outputs(tmp_path / "net.csv", LOGITS, LABELS)
    cut = {"path": str(file), "calib_fraction": 0.3, "split_seed": 5}
    found = pruneyard.calibrate(LOGITS, LABELS, calib_fraction=0.3, split_seed=5, seed=2, num_bins=10)
    assert found.after == of_job(file, tmp_path / "out", input=cut, method="temperature", seeds=[2], num_bins=10)
    assert "cut by class with split_seed 5 into 90 calib, 210 test" in repr(found)


def test_evaluate_gives_the_test_metrics_of_a_job_without_a_calibrator(tmp_path: Path) -> None:
    test = SPLIT == "test"
    file = write_outputs(tmp_path / "net.parquet", LOGITS, LABELS, split=SPLIT)
    job = of_job(file, tmp_path / "out")
    found = pruneyard.evaluate(LOGITS[test], LABELS[test])
    assert found == {name.removeprefix("test/"): value for name, value in job.items() if name.startswith("test/")}
    assert {"accuracy", "nll", "brier", "ece", "ece_adaptive"} <= set(found)
    of_probabilities = pruneyard.evaluate(probabilities=probabilities_of(LOGITS[test]), labels=LABELS[test])
    assert of_probabilities == pytest.approx(found, abs=1e-6)
    assert json.loads(json.dumps(found)) == found


def test_tensors_and_lists_are_arrays() -> None:
    expected = pruneyard.evaluate(LOGITS, LABELS)
    assert pruneyard.evaluate(torch.tensor(LOGITS), torch.tensor(LABELS)) == expected
    assert pruneyard.evaluate(LOGITS.tolist(), LABELS.tolist()) == expected


def test_a_score_of_the_positive_class_is_enough() -> None:
    score = np.array([0.1, 0.4, 0.35, 0.8])
    labels = np.array([0, 0, 1, 1])
    found = pruneyard.evaluate(probabilities=score, labels=labels)
    assert found["auroc_positive"] == 0.75
    assert found["brier_positive"] == pytest.approx(np.mean((score - labels) ** 2)) == pytest.approx(found["brier"] / 2)
    assert found["accuracy"] == 0.75
    # 0.35 and 0.4 share a bin, one of them positive: the gaps are 0.1, twice 0.5 - 0.375, and 0.2.
    assert found["ece_positive"] == pytest.approx((0.1 + 2 * 0.125 + 0.2) / 4)
    both = pruneyard.evaluate(probabilities=np.stack([1 - score, score], axis=1), labels=labels, positive=1)
    assert both == pytest.approx(found)
    assert pruneyard.evaluate(probabilities=score, labels=labels, positive="1") == found
    assert pruneyard.evaluate(probabilities=1 - score, labels=labels == 1, positive="False")["accuracy"] == 0.75
    one = pruneyard.evaluate(probabilities=score, labels=np.ones(4, dtype=int))
    assert "auroc_positive" not in one  # there is no negative row to compare with
    assert one["brier_positive"] == pytest.approx(np.mean((1 - score) ** 2))


def test_a_fitted_calibrator_takes_new_outputs_of_its_kind() -> None:
    found = pruneyard.calibrate(probabilities=probabilities_of(LOGITS), labels=LABELS, method="vector")
    new = found.probabilities(probabilities_of(LOGITS[:5]))
    assert new.sum(axis=1) == pytest.approx(np.ones(5))
    with pytest.raises(UsageError, match=r"probabilities: row 0, class 1 is .* it is declared as a probability"):
        found.probabilities(LOGITS[:5])
    with pytest.raises(UsageError, match="logits have 2 columns; the calibrator was fitted to 4"):
        found.probabilities([[0.5, 0.5]])
    binary = pruneyard.calibrate(LOGITS[:, 0], (LABELS == 0).astype(int), method="platt")
    assert binary.probabilities([-9.0, 9.0])[:, 1].round().tolist() == [0, 1]


@pytest.mark.parametrize("num_rows", [1, 40])
def test_a_calibrator_of_logits_refuses_probabilities(num_rows: int) -> None:
    found = pruneyard.calibrate(LOGITS, LABELS)
    with pytest.raises(UsageError, match=r"logits: these are probabilities, since every row sums to 1 .*: give logits, or fit"):
        found.probabilities(probabilities_of(LOGITS[:num_rows]))


def test_a_few_new_logits_may_look_like_probabilities() -> None:
    found = pruneyard.calibrate(LOGITS, LABELS)
    assert found.probabilities([[1.0, 0.0, 0.0, 0.0]]) == pytest.approx(
        probabilities_of(np.array([[1.0, 0, 0, 0]]) / found.after["fit/temperature"])
    )
    binary = pruneyard.calibrate(LOGITS[:, 0], (LABELS == 0).astype(int))
    assert binary.probabilities([0.3]).shape == (1, 2)
    with pytest.raises(UsageError, match="logits: row 0 is nan; it must be finite"):
        binary.probabilities([math.nan])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "logits and probabilities: none given; give one of the two"),
        ({"logits": LOGITS, "probabilities": LOGITS, "labels": LABELS}, "both given; give one of the two"),
        ({"logits": LOGITS}, "labels: none given; give a class number for each row"),
        ({"logits": LOGITS, "labels": LABELS[1:]}, r"labels: has shape \(299,\); it must be \(300,\), one label for each row"),
        ({"logits": LOGITS, "labels": LABELS + 1}, r"labels: row \d+ is 4; it must be a class number, .* in \[0, 4\)"),
        ({"logits": LOGITS * math.nan, "labels": LABELS}, "logits: row 0, class 0 is nan; it must be finite"),
        ({"logits": LOGITS[:0], "labels": LABELS[:0]}, r"logits: has shape \(0, 4\) of float64; it must be \(N, C\) numbers"),
        ({"probabilities": LOGITS, "labels": LABELS}, "probabilities: row 0, class .*must lie in"),
        ({"logits": probabilities_of(LOGITS), "labels": LABELS}, "logits: is declared as logits, but every row sums to 1"),
        ({"logits": LOGITS, "labels": LABELS, "positive": 1}, "positive is 1, but logits has 4 classes; only two"),
        ({"logits": LOGITS, "labels": LABELS, "num_bins": 0}, "num_bins.*is 0; it must be 1 or more"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_both(given: dict[str, Any], words: str) -> None:
    for function in (pruneyard.evaluate, pruneyard.calibrate):
        with pytest.raises(UsageError, match=words):
            function(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "temprature"}, "method.name: is unknown: .*did you mean temperature?"),
        ({"method": {"name": "platt", "folds": 3}}, "method.folds: is unknown"),
        ({"sets": ["apps"]}, r"sets\[0\].name: is unknown: .*did you mean aps?"),
        ({"scores": ["knn"]}, r"scores\[0\]: is knn, but there are outputs without their network and knn needs"),
        ({"scores": ["msp"]}, "scores is msp; .*there must be rows of OOD inputs"),
        ({"fit": "test"}, "fit: is \"test\"; it must be one of calib, val"),
        ({"calib_fraction": 1.5}, r"calib_fraction is 1.5; it must lie in \(0, 1\)"),
        ({"splits": SPLIT[:9]}, r"splits: has shape \(9,\); it must be \(300,\)"),
        ({"splits": np.full(300, "test")}, "of which 300 test: there must be rows of split calib, to fit on"),
        ({"splits": np.full(300, "tset")}, "splits: row 0 is 'tset'; it must be one of calib, val, test"),
        ({"labels": np.zeros(300, dtype=int)}, "labels: all 300 labels are 0; there must be at least two classes"),
    ],
)
def test_calibrate_refuses_by_the_name_of_the_argument(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        pruneyard.calibrate(**{"logits": LOGITS, "labels": LABELS, **given})


def test_importing_the_module_with_these_functions_costs_neither_torch_nor_ray() -> None:
    code = "import sys, pruneyard; assert 'evaluate' in dir(pruneyard); assert not {'torch', 'ray', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_thousand_classes_and_fifty_thousand_rows_take_seconds_of_cpu() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 1000, 50_000)
    logits = generator.normal(size=(50_000, 1000))
    logits[np.arange(50_000), labels] += 3
    started = time.process_time()
    found = pruneyard.calibrate(1.7 * logits, labels)
    assert time.process_time() - started < 30  # about five, without a busy machine's loss
    # The true logits are three times these: those of Gaussians with means 3 apart from 0.
    assert found.after["fit/temperature"] == pytest.approx(1.7 / 3, rel=0.05)
