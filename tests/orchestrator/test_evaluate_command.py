"""`pruneyard evaluate`: the table of files of outputs, the numbers of the Python functions, and refused options."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from in_process_command import Pruneyard
from user_outputs import made_up, probabilities_of, write_outputs

from pruneyard import calibrate, evaluate

LOGITS, LABELS = made_up(200, 3)


def test_all_rows_are_evaluated_where_nothing_names_splits(tmp_path: Path, pruneyard: Pruneyard) -> None:
    file = write_outputs(tmp_path / "net.csv", LOGITS, LABELS)
    (row,) = json.loads(pruneyard("evaluate", file, "--json").out)
    assert row["metrics"] == evaluate(LOGITS, LABELS)
    assert (row["model"], row["calibrator"], row["rows"]) == ("net", "none", 200)
    shown = pruneyard("evaluate", file)
    assert shown.code == 0
    assert shown.out.split() == [
        *("model", "calibrator", "rows", "accuracy", "nll", "brier", "ece", "ece_adaptive", "net", "none", "200"),
        *(f"{row['metrics'][name]:.4f}" for name in ("accuracy", "nll", "brier", "ece", "ece_adaptive")),
    ]
    assert "200 rows of model net, 3 classes, given as logits" in shown.err


def test_calibrators_are_fitted_to_a_part_and_evaluated_on_the_rest(tmp_path: Path, pruneyard: Pruneyard) -> None:
    file = write_outputs(tmp_path / "net.parquet", probabilities_of(LOGITS), LABELS, kind="probabilities")
    cut = ("--set", "calib_fraction=0.4", "--set", "split_seed=3")
    answer = pruneyard("evaluate", file, "--calibrator", "temperature", "--calibrator", "isotonic", "--json", *cut)
    found = {row["calibrator"]: row["metrics"] for row in json.loads(answer.out)}
    for method in ("temperature", "isotonic"):
        expected = calibrate(
            probabilities=probabilities_of(LOGITS), labels=LABELS, method=method, calib_fraction=0.4, split_seed=3
        )
        for name, metrics in (("none", expected.before), (method, expected.after)):
            of_test = {key.removeprefix("test/"): value for key, value in metrics.items() if key.startswith("test/")}
            assert found[name] == of_test


def test_every_model_and_file_has_a_row_with_its_name(
    tmp_path: Path, pruneyard: Pruneyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # short paths fit into the terminal's width
    model = np.where(np.arange(200) % 2 == 0, "small", "large")
    zoo = write_outputs(tmp_path / "zoo.npz", LOGITS, LABELS, model=model)
    other = write_outputs(tmp_path / "other.npz", LOGITS, LABELS)
    rows = json.loads(pruneyard("evaluate", zoo, other, "--json").out)
    assert [row["model"] for row in rows] == ["small", "large", "other"]
    assert "file" not in pruneyard("evaluate", zoo, other).out.split()
    Path("again").mkdir()
    write_outputs(Path("again/other.npz"), LOGITS / 2, LABELS)
    shown = pruneyard("evaluate", "other.npz", "again/other.npz").out.split()
    assert {"other.npz", "again/other.npz"} <= set(shown)


def test_a_model_with_val_but_no_calib_rows_is_fitted_to_val(tmp_path: Path, pruneyard: Pruneyard) -> None:
    row = np.arange(200)
    model, split = np.where(row < 100, "small", "large"), np.where(row % 2 == 0, "test", np.where(row < 100, "calib", "val"))
    file = write_outputs(tmp_path / "zoo.npz", LOGITS, LABELS, model=model, split=split)
    answer = pruneyard("evaluate", file, "--calibrator", "temperature", "--json")
    of_large = json.loads(answer.out)[-1]
    expected = calibrate(LOGITS[100:], LABELS[100:], splits=split[100:], fit="val").after
    assert (of_large["model"], of_large["metrics"]["ece"]) == ("large", expected["test/ece"])


def test_rows_of_calib_are_wanted_where_all_rows_are_test(tmp_path: Path, pruneyard: Pruneyard) -> None:
    file = write_outputs(tmp_path / "net.npz", LOGITS, LABELS, split=np.full(200, "test"))
    answer = pruneyard("evaluate", file, "--calibrator", "temperature")
    assert (answer.code, "there must be rows of split calib, to fit on" in answer.err) == (2, True)


def test_a_positive_class_adds_columns(tmp_path: Path, pruneyard: Pruneyard) -> None:
    logits, labels = made_up(200, 2)
    file = write_outputs(tmp_path / "net.csv", logits, labels)
    shown = pruneyard("evaluate", file, "--positive", "0").out
    assert f"{evaluate(logits, labels, positive=0)['auroc_positive']:.4f}" in shown
    assert "auroc_positive" in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "columns.lable=y"), "columns.lable: is unknown; known are label, .*did you mean label?"),
        (("--set", "columns.label=y"), "columns.label is 'y', but the file holds logit_0, logit_1, logit_2, label"),
        (("--set", "split=y"), "split: is unknown; .*did you mean splits?"),
        (("--set", "columns"), "--set columns: must have the form KEY=VALUE"),
        (("--positive", "1"), "positive is 1, but .* has 3 classes; only two have a positive one"),
        (("--calibrator", "temprature"), "'temprature' is not one of"),
        (("--set", "columns.split=label"), "column label: row 0 is '0'; it must be one of calib, val, test"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, pruneyard: Pruneyard, options: tuple[str, ...], words: str
) -> None:
    file = write_outputs(tmp_path / "net.csv", LOGITS, LABELS)
    answer = pruneyard("evaluate", file, *options)
    assert answer.code == 2
    assert re.search(words, answer.err), answer.err
