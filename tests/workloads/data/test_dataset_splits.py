"""Features that every source inherits: splits, statistics, fingerprint and checks of its fields."""

import pickle
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.dataset import (
    Dataset,
    PublishedDataset,
    PublishedSource,
    Split,
)
from pruneyard.workloads.data.input_statistics import input_statistics
from pruneyard.workloads.data.sources.digits import Digits


def rows(num: int, *, channels: int = 1, seed: int = 0) -> Split:
    """Returns random images whose first pixel is their row number."""
    images = np.random.default_rng(seed).integers(0, 256, (num, channels, 4, 4), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(num) % 256
    return Split.from_arrays(images, np.array([0, 0, 1, 2, 3, 0, 1, 2, 3])[np.arange(num) % 9])


@dataclass(frozen=True, kw_only=True)
class InMemory(PublishedSource):
    train: Split = field(default_factory=lambda: rows(240))
    test: Split = field(default_factory=lambda: rows(80, seed=1))
    classes: tuple[str, ...] = ("ant", "bee", "cat", "dog")

    def read(self) -> PublishedDataset:
        return PublishedDataset(classes=self.classes, train=self.train, test=self.test)


def parts(data: Dataset) -> list[Split]:
    return [data.train, data.val, data.calib]


@each_case("max_train", [None, 15, 16, 100, 239, 240, 10_000])
def test_train_val_and_calib_are_disjoint_and_cover_the_rows_used(max_train: int | None) -> None:
    data = InMemory(max_train=max_train).load()
    row_ids = np.concatenate([split.row_ids for split in parts(data)])
    assert len(row_ids) == min(max_train or 240, 240)
    assert len(set(row_ids.tolist())) == len(row_ids)


def test_every_split_keeps_image_label_and_row_id_together() -> None:
    source = InMemory(max_train=100, max_test=40)
    data = source.load()
    for split, published in [*((part, source.train) for part in parts(data)), (data.test, source.test)]:
        np.testing.assert_array_equal(split.images, published.images[split.row_ids])
        np.testing.assert_array_equal(split.labels, published.labels[split.row_ids])
        assert (np.diff(split.row_ids) > 0).all()


def test_splits_are_stratified() -> None:
    source = InMemory(val_fraction=0.2, calib_fraction=0.1)
    data = source.load()
    published = np.bincount(source.train.labels)
    for split, fraction in ((data.val, 0.2), (data.calib, 0.1), (data.train, 0.7)):
        assert len(split) == round(fraction * 240)
        # calib's share is rounded on top of val's, hence within two rows
        assert np.abs(np.bincount(split.labels) - fraction * published).max() < 2


def test_the_same_seed_gives_the_same_splits_and_another_seed_others() -> None:
    first, again, other = (InMemory(split_seed=seed).load() for seed in (3, 3, 4))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert set(first.val.row_ids) != set(other.val.row_ids)
    np.testing.assert_array_equal(first.test.row_ids, other.test.row_ids)


def test_the_digits_held_out_for_testing_do_not_move_with_the_split_seed() -> None:
    first, other = (Digits(split_seed=seed).load() for seed in (0, 1))
    np.testing.assert_array_equal(first.test.row_ids, other.test.row_ids)
    assert not set(first.test.row_ids) & set(np.concatenate([part.row_ids for part in parts(first)]))
    assert sum(len(part) for part in [*parts(first), first.test]) == 1797
    assert len(first.test) == 359
    assert first.train.images.max() == 255


def test_no_rows_are_cut_for_a_fraction_of_zero() -> None:
    data = InMemory(val_fraction=0, calib_fraction=0).load()
    assert [len(part) for part in parts(data)] == [240, 0, 0]
    assert data.val.images.shape == (0, 1, 4, 4)


def test_the_smallest_classes_give_one_row_to_every_split() -> None:
    labels = np.array([0] * 50 + [1] * 3)
    source = InMemory(
        train=replace(rows(53), labels=labels),
        test=replace(rows(2), labels=np.array([0, 1])),
        classes=("a", "b"),
    )
    for fractions in ((0.1, 0.1), (0.45, 0.45)):
        data = replace(source, val_fraction=fractions[0], calib_fraction=fractions[1]).load()
        assert [int((part.labels == 1).sum()) for part in parts(data)] == [1, 1, 1]


@each_case(
    ("fields", "message"),
    [
        ({"val_fraction": 1.0}, r"val_fraction is 1.0; it must lie in \[0, 1\)"),
        ({"calib_fraction": -0.1}, "calib_fraction is -0.1"),
        (
            {"val_fraction": 0.5, "calib_fraction": 0.5},
            "calib_fraction is 0.5 and val_fraction is 0.5; their sum must be below 1",
        ),
        ({"max_train": 0}, "max_train is 0; it must be at least 1"),
        ({"max_test": -5}, "max_test is -5"),
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InMemory(**fields)  # type: ignore[arg-type]


def test_too_few_rows_are_refused_by_name_of_class_or_field() -> None:
    with pytest.raises(ValueError, match="max_train is 3; it must be at least 4, one row for each class"):
        InMemory(max_train=3).load()
    with pytest.raises(ValueError, match=r"class 'ant' has 1 of the 4 training rows used; .* at least 3"):
        InMemory(max_train=4).load()
    with pytest.raises(ValueError, match="class 'eel' has 0 of the 240 training rows used"):
        InMemory(classes=("ant", "bee", "cat", "dog", "eel")).load()
    with pytest.raises(ValueError, match="the test data have no rows"):
        InMemory(test=rows(0)).load()


def test_labels_out_of_range_are_refused_with_their_row() -> None:
    labels = rows(80).labels.copy()
    labels[17] = 9
    with pytest.raises(ValueError, match=r"row 17 of the test data has label 9; it must lie in 0 ... 3"):
        InMemory(test=replace(rows(80), labels=labels)).load()
    labels[17] = -1
    with pytest.raises(ValueError, match="row 17 of the train data has label -1"):
        InMemory(train=replace(rows(80), labels=labels)).load()


def test_test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"test images are \(3, 4, 4\) .* must be \(1, 4, 4\)"):
        InMemory(test=rows(80, channels=3)).load()


def test_statistics_are_those_of_the_train_split_alone() -> None:
    source = InMemory(train=rows(240, channels=3), test=rows(80, channels=3))
    data = source.load()
    scaled = data.train.images.astype(np.float64) / 255
    assert data.mean == pytest.approx(scaled.mean(axis=(0, 2, 3)), rel=1e-12)
    assert data.std == pytest.approx(scaled.std(axis=(0, 2, 3)), rel=1e-12)


def test_statistics_add_up_over_chunks_and_a_constant_channel_has_std_one() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9001, 2, 1, 3), dtype=np.uint8)
    images[:, 1] = 51
    mean, std = input_statistics(images, pixels=True)
    assert mean == pytest.approx([images[:, 0].mean() / 255, 0.2], rel=1e-12)
    assert std == pytest.approx([images[:, 0].std() / 255, 1.0], rel=1e-12)


def test_a_fingerprint_sees_every_array() -> None:
    data = InMemory().load()
    brighter = replace(data.test, images=255 - data.test.images)
    renumbered = replace(data.val, row_ids=data.val.row_ids + 1)
    others = [
        replace(data, test=brighter),
        replace(data, val=renumbered),
        replace(data, classes=("a", "b", "c", "d")),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_data_set_survives_pickling_without_copies_of_its_arrays() -> None:
    data = InMemory().load()
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(data, protocol=5, buffer_callback=buffers.append)
    assert len(stream) < 3000  # the arrays travel beside it
    restored = pickle.loads(stream, buffers=[buffer.raw().toreadonly() for buffer in buffers])
    assert not restored.train.images.flags.writeable
    assert restored.fingerprint == data.fingerprint


@each_case(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 1, 3, 3)), np.zeros(2, dtype=np.int64), r"images are float64 .* uint8 or float32 \(N, C, H, W\)"),
        (np.zeros((2, 3, 3), dtype=np.uint8), np.zeros(2, dtype=np.int64), r"images are uint8 \(2, 3, 3\)"),
        (
            np.zeros((2, 1, 3, 3), dtype=np.uint8),
            np.zeros(3, dtype=np.int64),
            r"labels are int64 \(3,\); .* \(2,\)",
        ),
        (np.zeros((2, 1, 3, 3), dtype=np.uint8), np.zeros(2), "labels are float64"),
    ],
)
def test_a_split_refuses_arrays_of_another_type_or_shape(
    images: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Split(images=images, labels=labels, row_ids=np.arange(2))
