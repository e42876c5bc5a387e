"""Arrays of the user in a file: splits, labels, images and features, and what is refused."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data import input_statistics as statistics_module
from pruneyard.workloads.data.batches import Augmentation, DeviceSplit
from pruneyard.workloads.data.input_statistics import input_statistics
from pruneyard.workloads.data.sources.arrays import Arrays
from pruneyard.workloads.data.sources.breast_cancer import BreastCancer
from pruneyard.workloads.data.sources.wine import Wine

FEATURES = np.random.default_rng(0).normal(5.0, 3.0, (60, 4))
LABELS = np.arange(60) % 3
WHOLE: dict[str, Any] = {"x": FEATURES, "y": LABELS}
IMAGES = np.random.default_rng(1).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)


def save(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "own.npz", **arrays)
    return str(folder / "own.npz")


def test_features_are_standardised_with_the_training_rows_and_are_no_pixels(tmp_path: Path) -> None:
    data = Arrays(path=save(tmp_path, x=FEATURES, y=LABELS)).load()
    assert (data.pixels, data.image_shape, data.classes) == (False, (4,), ("0", "1", "2"))
    np.testing.assert_array_equal(data.train.images, FEATURES.astype(np.float32)[[*data.train.row_ids]][:])
    split = DeviceSplit(data.train, mean=data.mean, std=data.std)
    assert split.pixels is None
    inputs = torch.cat([batch for batch, _ in split.batches(16)]).double()
    torch.testing.assert_close(inputs.mean(0), torch.zeros(4).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(inputs.std(0, correction=0), torch.ones(4).double(), atol=1e-6, rtol=0)
    plain = Arrays(path=str(tmp_path / "own.npz"), standardise=False).load()
    assert (plain.mean, plain.std) == ((0.0,) * 4, (1.0,) * 4)


def test_a_constant_feature_is_not_blown_up(tmp_path: Path) -> None:
    features = np.column_stack([FEATURES, np.full(60, 0.1)])
    data = Arrays(path=save(tmp_path, x=features, y=LABELS)).load()
    assert data.std[4] == 1.0


@pytest.mark.parametrize("pixels", [False, True])
def test_statistics_of_floats_add_up_over_chunks(pixels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(2).normal(1e4, 3.0, (50, 3, 2, 2)).astype(np.float32)
    values = images.astype(np.float64) / (255 if pixels else 1)
    mean, std = input_statistics(images, pixels=pixels)
    assert mean == tuple(values.mean(axis=(0, 2, 3)))  # to the last bit within one chunk
    assert std == tuple(values.std(axis=(0, 2, 3)))
    monkeypatch.setattr(statistics_module, "FLOATS_PER_CHUNK", 7 * 12)
    chunked = input_statistics(images, pixels=pixels)
    np.testing.assert_allclose(chunked, (mean, std), rtol=1e-12)


def test_images_keep_their_bytes_whichever_axis_has_the_colours(tmp_path: Path) -> None:
    last = Arrays(path=save(tmp_path, x=IMAGES, y=LABELS), channels="last").load()
    first = Arrays(path=save(tmp_path, x=IMAGES.transpose(0, 3, 1, 2), y=LABELS)).load()
    assert last.fingerprint == first.fingerprint
    assert (last.pixels, last.train.images.dtype, last.image_shape) == (True, np.uint8, (3, 6, 5))
    grey = Arrays(path=save(tmp_path, x=IMAGES[..., 0], y=LABELS)).load()
    assert grey.image_shape == (1, 6, 5)


def test_floats_take_the_axis_of_colours_that_is_given_and_may_be_features_of_images(tmp_path: Path) -> None:
    last = Arrays(path=save(tmp_path, x=IMAGES / 255, y=LABELS), channels="last").load()
    assert (last.pixels, last.image_shape) == (False, (3, 6, 5))
    assert Arrays(path=save(tmp_path, x=np.ones((60, 512, 2, 2)), y=LABELS)).load().image_shape == (512, 2, 2)


def test_features_and_pixels_of_equal_bytes_have_different_fingerprints(tmp_path: Path) -> None:
    features = Arrays(path=save(tmp_path, x=FEATURES, y=LABELS)).load()
    names = Arrays(path=save(tmp_path, x=FEATURES, y=LABELS), classes=("a", "b", "c")).load()
    other = Arrays(path=save(tmp_path, x=FEATURES + 1e-3, y=LABELS)).load()
    assert len({features.fingerprint, names.fingerprint, other.fingerprint}) == 3


def test_splits_of_the_file_are_taken_as_they_are_and_the_others_cut_from_train(tmp_path: Path) -> None:
    parts = {"x_train": FEATURES, "y_train": LABELS, "x_val": FEATURES[:6] + 1, "y_val": LABELS[:6]}
    data = Arrays(path=save(tmp_path, **parts, x_test=FEATURES[:9] + 2, y_test=LABELS[:9])).load()
    assert [len(split) for split in (data.train, data.val, data.calib, data.test)] == [54, 6, 6, 9]
    np.testing.assert_array_equal(data.val.images, (FEATURES[:6] + 1).astype(np.float32))
    assert data.val.row_ids.tolist() == list(range(60, 66))
    held_out = Arrays(path=save(tmp_path, **parts)).load()
    assert [len(split) for split in (held_out.train, held_out.val, held_out.calib, held_out.test)] == [43, 6, 5, 12]


@each_case(
    ("labels", "classes"),
    [
        (np.array([7, -2, 30])[LABELS], ("-2", "7", "30")),
        (np.array(["dog", "ant", "cat"])[LABELS], ("ant", "cat", "dog")),
        (LABELS > 0, ("0", "1")),
        (LABELS.astype(float), ("0", "1", "2")),
        (LABELS[:, None], ("0", "1", "2")),
    ],
)
def test_labels_of_any_values_are_classes_in_ascending_order(
    labels: np.ndarray, classes: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        data = Arrays(path=save(tmp_path, x=FEATURES, y=labels)).load()
    assert data.classes == classes
    plain = labels.reshape(-1).astype(int if labels.dtype.kind in "bf" else labels.dtype)
    assert [data.classes[label] for label in data.train.labels] == [str(v) for v in plain[data.train.row_ids]]
    is_mapped = classes[:2] != ("0", "1")
    assert caplog.messages == (
        [f"{tmp_path}/own.npz: y: the labels {', '.join(classes)} are the classes 0 ... {len(classes) - 1}"] if is_mapped else []
    )


def test_class_names_come_from_the_table_or_the_file(tmp_path: Path) -> None:
    names = np.array(["ant", "bee", "cat"])
    assert Arrays(path=save(tmp_path, x=FEATURES, y=LABELS, classes=names)).load().classes == ("ant", "bee", "cat")
    data = Arrays(path=save(tmp_path, x=FEATURES, y=names[LABELS]), classes=("cat", "ant", "bee")).load()
    np.testing.assert_array_equal(data.train.labels, np.array([1, 2, 0])[LABELS[data.train.row_ids]])


def test_safetensors_give_the_data_of_npz(tmp_path: Path) -> None:
    arrays = {"x": FEATURES, "y": LABELS}
    save_file(arrays, tmp_path / "own.safetensors", metadata={"classes": '["ant", "bee", "cat"]'})
    there = Arrays(path=str(tmp_path / "own.safetensors")).load()
    assert there.fingerprint == Arrays(path=save(tmp_path, **arrays), classes=("ant", "bee", "cat")).load().fingerprint


def with_nan() -> np.ndarray:
    values = FEATURES.copy()
    values[[7, 9], 2] = np.nan
    return values


@each_case(
    ("arrays", "message"),
    [
        ({"x": with_nan(), "y": LABELS}, r"own.npz: x, row 7, column 2 is nan; .* \(2 of 60 rows have others\)"),
        ({"x": FEATURES * 1e39, "y": LABELS}, r"x, row 0, column 0 is .*e\+39; every feature must be a finite number in float32"),
        ({"x": FEATURES, "y": LABELS[:50]}, r"own.npz: y has 50 labels and .*: x has 60 rows; they must be as many"),
        ({"x": FEATURES[:, 0], "y": LABELS}, r"x has the shape \(60,\); it must have two axes or more"),
        ({"x": FEATURES.astype(str), "y": LABELS}, r"x has the type <U\d+; it must hold numbers; `table` encodes"),
        ({"x": FEATURES, "y": np.zeros(60)}, r"y has only the class 0; it must have two classes or more"),
        ({"x": FEATURES, "y": FEATURES[:, 0]}, r"y, row 0 has the label [\d.]+; .* regression is not supported"),
        ({"x": FEATURES, "y": np.arange(60) * 10}, r"y has 60 different values in 60 rows .* regression is not supported"),
        ({"x": FEATURES, "y": np.eye(3)[LABELS]}, r"y has the shape \(60, 3\); it must be \(N,\)"),
        ({"x": IMAGES, "y": LABELS}, r"x has the shape \(60, 6, 5, 3\), images with their colours last; set channels: last"),
        ({"x": IMAGES / 255, "y": LABELS}, r"\(60, 6, 5, 3\), images .* last; .* or give X\.transpose\(0, 3, 1, 2\)"),
        ({"x": FEATURES}, r"x of train has no y; it has x; they must be x and y"),
        ({"x": FEATURES, "y": LABELS, "x_vali": FEATURES}, r"x_vali names no split, which are train, .* x_val\?"),
        ({"a": FEATURES}, r"no inputs are found; it has a; they must be x and y"),
        ({"x": FEATURES, "y": LABELS, "x_test": FEATURES[:0], "y_test": LABELS[:0]}, r"x_test has no rows"),
        (WHOLE | {"x_test": FEATURES[:, :3], "y_test": LABELS}, r"x_test are float32 \(3,\); .* \(4,\) like those of .*: x$"),
        (WHOLE | {"x_test": FEATURES, "y_test": LABELS + 1}, r"y_test, row 2 has the label 3; the training rows have 0, 1, 2"),
        (WHOLE | {"x_test": FEATURES, "y_test": LABELS.astype(str)}, r"y_test, row 0 .* '0', which is text; .* numbers, 0, 1, 2"),
        ({"x": FEATURES, "y": np.array([*"abc"], dtype=object)[LABELS]}, r"cannot be read as .npz: arrays of Python objects"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Arrays(path=save(tmp_path, **arrays)).load()


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    for name in ("own.npz", "own.safetensors", "own.csv"):
        (tmp_path / name).write_bytes(b"\x80\x04K\x01.")
    for name, message in (
        ("own.npz", r"own\.npz cannot be read as \.npz: "),
        ("own.safetensors", r"own\.safetensors cannot be read as safetensors: "),
        ("own.csv", r"path is .*own\.csv'; it must be a file that ends in \.npz or \.safetensors"),
    ):
        with pytest.raises(ValueError, match=message):
            Arrays(path=str(tmp_path / name)).load()


def test_a_path_may_be_relative_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, x=FEATURES, y=LABELS)
    monkeypatch.chdir(tmp_path)
    assert len(Arrays(path="own.npz").load().train) == 38
    with pytest.raises(ValueError, match=r"^path is 'other\.npz', which is in none of the folders \., .*; put a \.npz or"):
        Arrays(path="other.npz").load()


def test_the_tables_of_scikit_learn_keep_their_class_names() -> None:
    data = BreastCancer().load()
    assert (data.image_shape, data.classes, data.pixels) == ((30,), ("malignant", "benign"), False)
    assert len(Wine().load().mean) == 13


def test_features_are_not_augmented() -> None:
    with pytest.raises(ValueError, match=r"augment changes images, but the data has features of shape \(4,\)"):
        Augmentation(flip=True)(torch.zeros(2, 4), torch.Generator())
