"""Files of outputs that were computed elsewhere: formats, names of columns, splits, and what is refused by name."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from user_outputs import made_up, probabilities_of, write_outputs

from pruneyard.workloads.calibrate.user_outputs.columns import Columns
from pruneyard.workloads.calibrate.user_outputs.input import Input
from pruneyard.workloads.calibrate.user_outputs.splits import SplitNames, stratified_cut

LOGITS, LABELS = made_up(60, 3)
SPLIT = np.array(["calib", "test", "val"] * 20)


def read(file: Path, *, positive: Any = None, **fields: Any) -> Any:
    return Input(path=str(file), **fields).read(positive=positive)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".csv"])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_every_format_gives_the_same_numbers_bit_for_bit(tmp_path: Path, suffix: str, kind: str) -> None:
    values = LOGITS if kind == "logits" else probabilities_of(LOGITS)
    found = read(write_outputs(tmp_path / f"net{suffix}", values, LABELS, kind=kind, split=SPLIT))
    assert list(found.splits) == ["calib", "test", "val"]
    for name, split in found.splits.items():
        assert np.array_equal(split.logits, (values if kind == "logits" else np.log(values))[name == SPLIT])
        assert np.array_equal(split.labels, LABELS[name == SPLIT])
        assert np.array_equal(split.row_ids, np.flatnonzero(name == SPLIT))
    assert f"60 rows of model net, 3 classes, given as {kind}, of which 20 calib, 20 test, 20 val" in found.note


def test_rows_without_splits_are_cut_by_class_with_a_seed_and_the_note_says_so(tmp_path: Path) -> None:
    logits, labels = made_up(401, 4)
    file = write_outputs(tmp_path / "net.npz", logits, labels)
    found = read(file, calib_fraction=0.25)
    assert "cut by class with split_seed 0 into 100 calib, 301 test" in found.note
    for number in range(4):
        assert abs((found.splits["calib"].labels == number).sum() - (labels == number).sum() / 4) < 1
    rows = np.concatenate([split.row_ids for split in found.splits.values()])
    assert sorted(rows) == list(range(401))
    again, other = read(file, calib_fraction=0.25), read(file, calib_fraction=0.25, split_seed=1)
    assert np.array_equal(again.splits["calib"].row_ids, found.splits["calib"].row_ids)
    assert not np.array_equal(other.splits["calib"].row_ids, found.splits["calib"].row_ids)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_a_cut_takes_the_same_share_of_every_class_and_of_all_rows(fraction: float) -> None:
    labels = np.random.default_rng(0).choice(6, p=[0.5, 0.3, 0.1, 0.05, 0.04, 0.01], size=999)
    chosen = stratified_cut(labels, fraction, np.random.default_rng(1))
    assert abs(chosen.sum() - fraction * 999) < 1
    for number in range(6):
        assert abs(chosen[labels == number].sum() - fraction * (labels == number).sum()) < 1


def test_columns_and_splits_have_the_names_that_the_spec_gives(tmp_path: Path) -> None:
    table = {"id": np.arange(60) + 7, "p_cat": 0.0, "p_dog": 0.0, "p_eel": 0.0, "truth": 0, "part": ""}
    frame = pd.DataFrame(table)
    frame[["p_cat", "p_dog", "p_eel"]] = probabilities_of(LOGITS)
    frame["truth"] = np.array(["cat", "dog", "eel"])[LABELS]
    frame["part"] = np.array(["valid", "holdout", "train"] * 20)
    frame.to_csv(tmp_path / "net.csv", index=False)
    found = read(
        tmp_path / "net.csv",
        columns=Columns(probabilities="p_", label="truth", split="part", row_id="id"),
        splits=SplitNames(calib="valid", test="holdout"),
    )
    assert list(found.splits) == ["calib", "test"]
    test = found.splits["test"]
    assert np.array_equal(test.labels, LABELS[1::3])
    assert np.array_equal(test.row_ids, np.arange(60)[1::3] + 7)
    assert np.exp(test.logits) == pytest.approx(probabilities_of(LOGITS)[1::3])


def test_ood_rows_need_no_label_and_training_rows_no_valid_one(tmp_path: Path) -> None:
    split = np.where(np.arange(60) < 6, "ood.svhn", np.where(np.arange(60) < 9, "train", SPLIT))
    labels = np.where(np.arange(60) < 9, 99.0, LABELS)
    labels[0] = np.nan
    found = read(write_outputs(tmp_path / "net.csv", LOGITS, labels, split=split))
    assert set(found.splits) == {"ood.svhn", "calib", "test", "val"}
    assert list(found.splits["ood.svhn"].labels) == [-1] * 6


def test_several_models_are_told_apart(tmp_path: Path) -> None:
    model = np.where(np.arange(60) % 2 == 0, "small", "large")
    file = write_outputs(tmp_path / "nets.parquet", LOGITS, LABELS, model=model)
    found = read(file, model="large")
    assert "30 rows of model large" in found.note
    rows = np.concatenate([split.row_ids for split in found.splits.values()])
    assert sorted(rows) == list(range(1, 60, 2))
    with pytest.raises(ValueError, match=r"model is missing; .*nets.parquet, column model, holds small, large; choose one"):
        read(file)
    with pytest.raises(ValueError, match=r"model is 'lrage'; .* holds small, large"):
        read(file, model="lrage")


@pytest.mark.parametrize(("positive", "place"), [(None, 1), (1, 1), (0, 0)])
def test_one_score_per_row_is_that_of_the_positive_class(tmp_path: Path, positive: int | None, place: int) -> None:
    score = np.linspace(0.01, 0.99, 60)
    labels = (np.arange(60) % 7 < 3).astype(int)
    found = read(write_outputs(tmp_path / "net.npz", score, labels, kind="probabilities"), positive=positive)
    assert found.positive == place
    for split in found.splits.values():
        assert np.exp(split.logits[:, place]) == pytest.approx(score[split.row_ids])
    logit = np.log(score / (1 - score))
    of_logit = read(write_outputs(tmp_path / "logit.csv", logit[:, None], labels), positive=positive)
    for split in of_logit.splits.values():
        gap = split.logits[:, place] - split.logits[:, 1 - place]
        assert gap == pytest.approx(logit[split.row_ids])


def test_the_positive_class_may_be_a_name(tmp_path: Path) -> None:
    score = np.linspace(0.01, 0.99, 60)
    names = np.where(np.arange(60) % 7 < 3, "ill", "well")
    file = tmp_path / "net.csv"
    pd.DataFrame({"score": score, "label": names}).to_csv(file, index=False)
    found = read(file, columns=Columns(probabilities="score"), positive="ill")
    assert found.positive == 1
    test = found.splits["test"]
    assert np.array_equal(test.labels, (names == "ill").astype(int)[test.row_ids])
    with pytest.raises(ValueError, match=r"positive is 'sick'; .*column label: the labels are ill, well; .* exactly two names"):
        read(file, columns=Columns(probabilities="score"), positive="sick")


@pytest.mark.parametrize(("positive", "place"), [("1", 1), ("0", 0), ("True", 1), ("False", 0), ("true", 1)])
def test_the_text_of_a_number_or_boolean_is_the_class_of_that_number(tmp_path: Path, positive: str, place: int) -> None:
    score, labels = np.linspace(0.01, 0.99, 60), np.arange(60) % 7 < 3
    given = labels if positive.isalpha() else labels.astype(int)
    found = read(write_outputs(tmp_path / "net.csv", score[:, None], given, kind="probabilities"), positive=positive)
    test = found.splits["test"]
    assert found.positive == place
    assert np.array_equal(test.labels, labels[test.row_ids])
    assert np.exp(test.logits[:, place]) == pytest.approx(score[test.row_ids])
    with pytest.raises(ValueError, match=r"positive is 'yes'; .*column label: it must be (0 or 1|False or True), as the labels"):
        read(tmp_path / "net.csv", positive="yes")


def test_boolean_labels_are_the_columns_named_so_in_any_order(tmp_path: Path) -> None:
    labels = np.arange(60) % 7 < 3
    pd.DataFrame({"p_true": 0.9, "p_false": 0.1, "label": labels}).to_csv(tmp_path / "net.csv", index=False)
    test = read(tmp_path / "net.csv", columns=Columns(probabilities="p_"), positive="true").splits["test"]
    assert np.array_equal(test.labels == 0, labels[test.row_ids])


def test_ood_and_training_rows_name_no_class_of_a_binary_problem(tmp_path: Path) -> None:
    split = np.where(np.arange(60) < 6, "ood.svhn", np.where(np.arange(60) < 9, "train", "test"))
    names = np.where(np.arange(60) < 9, "unknown", np.where(np.arange(60) % 2 == 0, "ill", "well"))
    file = write_outputs(tmp_path / "net.csv", np.linspace(0.01, 0.99, 60)[:, None], names, kind="probabilities", split=split)
    found = read(file, positive="ill")
    assert np.array_equal(found.splits["test"].labels, (names == "ill").astype(int)[9:])
    assert len(found.splits["ood.svhn"]) == 6
    write_outputs(file, np.linspace(0.01, 0.99, 60)[:, None], names, kind="probabilities")
    with pytest.raises(ValueError, match="the labels are ill, unknown, well; there must be exactly two names of classes"):
        read(file, positive="ill")


def test_a_given_name_of_a_split_stands_for_that_split_alone(tmp_path: Path) -> None:
    file = write_outputs(tmp_path / "net.npz", LOGITS, LABELS, split=np.where(SPLIT == "calib", "train", SPLIT))
    found = read(file, splits=SplitNames(calib="val"))
    assert {name: len(split) for name, split in found.splits.items()} == {"test": 20, "calib": 20}
    swapped = read(write_outputs(file, LOGITS, LABELS, split=SPLIT), splits=SplitNames(calib="val", val="calib"))
    assert np.array_equal(swapped.splits["calib"].row_ids, np.flatnonzero(SPLIT == "val"))
    write_outputs(file, LOGITS, LABELS, split=np.where(SPLIT == "val", "valid", SPLIT))
    with pytest.raises(ValueError, match=r"column split: row 0 is 'calib', but splits.calib is 'valid'; one split has one name"):
        read(file, splits=SplitNames(calib="valid"))


def test_ood_and_ood_all_are_one_split(tmp_path: Path) -> None:
    split = np.where(np.arange(60) % 10 == 0, "ood", np.where(np.arange(60) % 10 == 5, "ood.all", SPLIT))
    found = read(write_outputs(tmp_path / "net.npz", LOGITS, LABELS, split=split))
    assert np.array_equal(found.splits["ood.all"].row_ids, np.arange(0, 60, 5))


def test_a_model_has_only_the_splits_of_its_own_rows(tmp_path: Path) -> None:
    split = np.where(np.arange(60) < 6, "ood.svhn", SPLIT)
    model = np.where(np.arange(60) < 30, "small", "large")
    found = read(write_outputs(tmp_path / "nets.npz", LOGITS, LABELS, split=split, model=model), model="large")
    assert set(found.splits) == {"calib", "test", "val"}
    assert "of which 10 calib, 10 test, 10 val" in found.note


@pytest.mark.parametrize(
    ("row_ids", "words"),
    [
        (np.array([f"img{row}" for row in range(60)]), "row 0 is 'img0'"),
        (np.arange(60) + np.where(np.arange(60) == 7, 0.5, 0.0), "row 7 is 7.5"),
        (np.where(np.arange(60) == 8, np.nan, np.arange(60)), "row 8 is nan"),
    ],
)
def test_row_ids_are_whole_numbers(tmp_path: Path, row_ids: np.ndarray, words: str) -> None:
    file = write_outputs(tmp_path / "net.csv", LOGITS, LABELS, split=SPLIT, row_id=row_ids)
    with pytest.raises(ValueError, match=rf"net.csv, column row_id: {words}; it must be a whole number; rename the column"):
        read(file)
    write_outputs(file, LOGITS, LABELS, split=SPLIT, row_id=np.arange(60) * 2.0)
    assert np.array_equal(read(file).splits["test"].row_ids, np.flatnonzero(SPLIT == "test") * 2)


def test_a_probability_of_zero_becomes_the_logarithm_of_the_smallest_number(tmp_path: Path) -> None:
    values = np.tile([0.0, 1.0], (20, 1))
    found = read(write_outputs(tmp_path / "net.npz", values, np.arange(20) % 2, kind="probabilities"))
    assert found.splits["test"].logits.tolist()[0] == [-745.0, 0.0]


def with_value(array: np.ndarray, at: Any, value: Any) -> np.ndarray:
    changed = array.copy() if not isinstance(value, str) else array.astype(object)
    changed[at] = value
    return changed


P = probabilities_of(LOGITS)
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "NaN": ({"values": with_value(LOGITS, (7, 1), np.nan)}, {}, "column logit_0 ... logit_2: row 7, class 1 is nan; it"),
    "infinite": ({"values": with_value(LOGITS, (7, 1), np.inf)}, {}, "row 7, class 1 is inf; it must be finite"),
    "text": ({"values": with_value(LOGITS, (7, 1), "high")}, {}, "column logit_1: row 7 is 'high'; it must be a number"),
    "logits called probabilities": ({"kind": "probabilities"}, {}, "is declared as a probability, so it must lie in [0, 1]"),
    "probabilities called logits": ({"values": P}, {}, "is declared as logits, but every row sums to 1 and no value is negative"),
    "negative": (
        {"values": with_value(P, (4, 2), -0.25), "kind": "probabilities"},
        {},
        "column prob_0 ... prob_2: row 4, class 2 is -0.25; it is declared as a probability",
    ),
    "no sum": (
        {"values": with_value(P, 5, 0.25), "kind": "probabilities"},
        {},
        "row 5 sums to 0.75 (1 of 60 rows do not sum to 1); the probabilities of a row must sum to 1 within 0.0001",
    ),
    "large label": ({"labels": with_value(LABELS, 3, 3)}, {}, "row 3 is 3; it must be a class number, a whole number in [0, 3)"),
    "half a label": ({"labels": with_value(LABELS.astype(float), 3, 0.5)}, {}, "column label: row 3 is 0.5; it must be"),
    "name": ({"labels": with_value(LABELS, 0, "cat")}, {}, "column label: row 0 is 'cat'; it must be a class number in [0, 3)"),
    "one class": ({"labels": np.ones(60, dtype=int)}, {}, "column label: all 60 labels are 1; there must be"),
    "split": ({"split": with_value(SPLIT, 9, "dev")}, {}, "row 9 is 'dev'; it must be one of calib, val, test, train"),
    "no label": ({}, {"columns": {"label": "lable"}}, "columns.label is 'lable', but the file holds"),
    "nearest": ({}, {"columns": {"label": "labl"}}, "did you mean label?"),
    "no column": ({}, {"columns": {"logits": "z"}}, "columns.logits is 'z', but the file holds logit_0, logit_1, logit_2, label"),
    "positive": ({}, {"positive": 1}, "positive is 1, but "),
    "model": ({"model": np.array(["a", "b"] * 30)}, {"model": "c"}, "model is 'c'; "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_file_column_and_row(tmp_path: Path, case: str) -> None:
    written, given, words = REFUSED[case]
    given = {**given}
    file = write_outputs(tmp_path / "net.csv", **{"values": LOGITS, "labels": LABELS, **written})
    if "columns" in given:
        given["columns"] = Columns(**given["columns"])
    with pytest.raises(ValueError, match=r"net\.csv") as caught:
        read(file, **given)
    assert words in str(caught.value)


def test_splits_that_are_missing_empty_or_of_one_class_are_refused(tmp_path: Path) -> None:
    file = write_outputs(tmp_path / "net.npz", LOGITS, LABELS, split=np.where(SPLIT == "calib", "val", SPLIT))
    with pytest.raises(ValueError, match=r"of which 40 val, 20 test: there must be rows of split calib, to fit on"):
        read(file).check("calib")
    one = np.where((SPLIT == "calib") & (LABELS != 2), "train", SPLIT)
    file = write_outputs(tmp_path / "one.npz", LOGITS, LABELS, split=one)
    with pytest.raises(ValueError, match=r"labels of calib are 2; there must be at least two classes to fit on"):
        read(file).check("calib")


def test_arrays_of_unequal_lengths_are_refused(tmp_path: Path) -> None:
    file = write_outputs(tmp_path / "net.npz", LOGITS, LABELS[:-1])
    with pytest.raises(ValueError, match=r"net.npz, column labels: has shape \(59,\); it must be \(60,\), one label"):
        read(file)
    file = write_outputs(tmp_path / "split.npz", LOGITS, LABELS, split=SPLIT[:-1])
    with pytest.raises(ValueError, match=r"split.npz, column split: has shape \(59,\)"):
        read(file)
    rows = [row[: 2 + (place != 8)] for place, row in enumerate(LOGITS)]
    pd.DataFrame({"logits": rows, "label": LABELS}).to_parquet(tmp_path / "ragged.parquet")
    with pytest.raises(ValueError, match=r"ragged.parquet: column logits: row 8 has 2 numbers; it must have 3, as row 0 has"):
        read(tmp_path / "ragged.parquet")


def test_logits_and_probabilities_in_one_file_are_no_choice(tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", logits=LOGITS, probabilities=P, labels=LABELS)
    with pytest.raises(ValueError, match=r"holds logits \(logits\) and probabilities \(probabilities\); choose one by columns"):
        read(tmp_path / "net.npz")
    assert "given as probabilities" in read(tmp_path / "net.npz", columns=Columns(probabilities="probabilities")).note


def test_nothing_in_a_file_is_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "exploded"),)

    np.savez(tmp_path / "net.npz", logits=np.array([Bomb(), Bomb()], dtype=object), labels=[0, 1])
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("net.npz", "plain.npz"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read as a \.npz file: (it is no archive|Object arrays)"):
            read(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_damaged_files_and_other_formats_are_refused_by_name(tmp_path: Path) -> None:
    for suffix in (".npz", ".parquet", ".csv"):
        (tmp_path / f"net{suffix}").write_bytes(b"PK\x03\x04 no such thing" if suffix == ".npz" else b"\xff\x00\xff")
        with pytest.raises(ValueError, match=rf"net\{suffix}: (cannot be read as|holds neither)"):
            read(tmp_path / f"net{suffix}")
    with pytest.raises(ValueError, match=r"path is .*net.txt'; it must end in .parquet, .npz or .csv"):
        Input(path=str(tmp_path / "net.txt"))
    with pytest.raises(ValueError, match=r"path is .*none.csv', which cannot be read: No such file"):
        Input(path=str(tmp_path / "none.csv"))
    with pytest.raises(ValueError, match="path is missing; give from"):
        Input()


def test_a_file_that_changes_after_planning_is_refused(tmp_path: Path) -> None:
    file = write_outputs(tmp_path / "net.csv", LOGITS, LABELS)
    planned = Input(path=str(file))
    planned.read(positive=None)
    write_outputs(file, LOGITS * 2, LABELS)
    with pytest.raises(ValueError, match=rf"net.csv has changed: its digest was {planned.digest} and is"):
        planned.read(positive=None)
    with pytest.raises(ValueError, match=rf"digest is {planned.digest}; .*net.csv has .*, so it holds other outputs"):
        Input(path=str(file), digest=planned.digest)
