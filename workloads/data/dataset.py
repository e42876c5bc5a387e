"""A labelled image set in memory, its four disjoint splits, and what every data source shares."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pruneyard.workloads import plugins
from pruneyard.workloads.data.stratify import apportion, draw
from pruneyard.workloads.seeding import stream_seed

ROWS_PER_CHUNK = 4096  # bounds the memory of the passes over all pixels

Images = npt.NDArray[np.uint8 | np.float32]


class DataNotFoundError(ValueError):
    """A source's files are in no folder searched; the message names them and says how to get the data."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of a data set.

    images: (N, C, H, W) uint8, or float32 with black 0 and white 255, which values may exceed; labels: (N,) int64;
    row_ids: (N,) int64, the position in the publisher's file.
    """

    images: Images
    labels: npt.NDArray[np.int64]
    row_ids: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.dtype not in (np.uint8, np.float32) or self.images.ndim != 4:
            came = f"{self.images.dtype} {self.images.shape}"
            raise ValueError(f"images are {came}; they must be uint8 or float32 (N, C, H, W)")
        for name, column in (("labels", self.labels), ("row_ids", self.row_ids)):
            if column.dtype != np.int64 or column.shape != (len(self.images),):
                came, allowed = f"{column.dtype} {column.shape}", f"int64 ({len(self.images)},)"
                raise ValueError(f"{name} are {came}; they must be {allowed}")

    @classmethod
    def from_arrays(cls, images: Images, labels: npt.ArrayLike) -> "Split":
        """All rows of a file, in its order."""
        return cls(
            images=np.ascontiguousarray(images),  # the layout that batches gather from
            labels=np.asarray(labels, dtype=np.int64),
            row_ids=np.arange(len(images)),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[Any]) -> "Split":
        """A copy of some rows, by index or mask."""
        return Split(images=self.images[rows], labels=self.labels[rows], row_ids=self.row_ids[rows])


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Four disjoint splits. mean, std: of the train split per channel, with images scaled to [0, 1]."""

    name: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    val: Split
    calib: Split
    test: Split

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all arrays and class names: equal data, equal fingerprint, anywhere."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for split in (self.train, self.val, self.calib, self.test):
            for array in (split.images, split.labels, split.row_ids):
                digest.update(str(array.shape).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel of `images: (N, C, H, W)`, scaled to [0, 1].

    Of uint8 images computed from counts of the 256 values, hence the same on every machine. A constant channel gets std 1.
    """
    if images.dtype != np.uint8:
        scaled = images.astype(np.float64) / 255
        mean, std = scaled.mean(axis=(0, 2, 3)), scaled.std(axis=(0, 2, 3))
        return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
    counts = np.zeros((images.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images), ROWS_PER_CHUNK):
        for channel, of_channel in enumerate(counts):
            of_channel += np.bincount(images[start : start + ROWS_PER_CHUNK, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / counts.sum(axis=1)
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set as its publisher gives it: a training file and a test file."""

    classes: tuple[str, ...]
    train: Split
    test: Split


class Source(ABC):
    """What a table of a spec becomes that says where data come from: a frozen dataclass in `workloads/data/sources`."""

    @abstractmethod
    def load(self) -> Dataset:
        """The same data at every call. Raises `DataNotFoundError`, or `ValueError` naming what is damaged or does not fit."""


@dataclass(frozen=True, kw_only=True)
class Publisher(Source, ABC):
    """What sources of published rows share: val and calib are cut from the published training rows.

    Cuts are stratified, disjoint and a function of `split_seed`; the test split is the publisher's.
    """

    val_fraction: float = 0.1  # of the published training rows, for choosing between runs
    calib_fraction: float = 0.1  # of the published training rows, for fitting calibrators
    split_seed: int = 0
    max_train: int | None = None  # use at most so many training rows, val and calib among them
    max_test: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("val_fraction", self.val_fraction), ("calib_fraction", self.calib_fraction)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; it must lie in [0, 1)")
        if self.val_fraction + self.calib_fraction >= 1:
            rest = f"beside val_fraction {self.val_fraction}"
            raise ValueError(f"calib_fraction is {self.calib_fraction}; it must leave training rows {rest}")
        for name, limit in (("max_train", self.max_train), ("max_test", self.max_test)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} is {limit}; it must be at least 1")

    @abstractmethod
    def read(self) -> Published:
        """The published rows. Raises `DataNotFoundError`, or `ValueError` naming the file that is damaged."""

    def load(self) -> Dataset:
        """Reads, checks and splits the data."""
        published = self.read()
        for part, rows in (("train", published.train), ("test", published.test)):
            check_labels(rows, part=part, classes=published.classes)
        if published.train.images.shape[1:] != published.test.images.shape[1:]:
            came, allowed = published.test.images.shape[1:], published.train.images.shape[1:]
            raise ValueError(
                f"test images are {came} (C, H, W); they must be {allowed} as the training images"
            )
        usable = _at_most(published.train, self.max_train, seed=self.split_seed, field="max_train")
        test = _at_most(published.test, self.max_test, seed=self.split_seed, field="max_test")
        self._check_class_sizes(usable, published.classes)
        num_val, num_calib = (round(part * len(usable)) for part in (self.val_fraction, self.calib_fraction))
        train, val = hold_out(usable, num_val, seed=self.split_seed, part="val", leave=2 if num_calib else 1)
        train, calib = hold_out(train, num_calib, seed=self.split_seed, part="calib", leave=1)
        mean, std = channel_statistics(train.images)
        return Dataset(
            name=plugins.name_of(self),
            classes=published.classes,
            mean=mean,
            std=std,
            train=train,
            val=val,
            calib=calib,
            test=test,
        )

    def tested_only(self, classes: tuple[str, ...], test: Split) -> Dataset:
        """Test rows without any to train on, which is all that a set of unknown inputs needs. mean, std: of these."""
        check_labels(test, part="test", classes=classes)
        test = _at_most(test, self.max_test, seed=self.split_seed, field="max_test")
        mean, std = channel_statistics(test.images)
        none = test.take(np.zeros(0, dtype=np.int64))
        return Dataset(
            name=plugins.name_of(self),
            classes=classes,
            mean=mean,
            std=std,
            train=none,
            val=none,
            calib=none,
            test=test,
        )

    def _check_class_sizes(self, rows: Split, classes: Sequence[str]) -> None:
        parts = ["train"] + ["val"] * (self.val_fraction > 0) + ["calib"] * (self.calib_fraction > 0)
        counts = np.bincount(rows.labels, minlength=len(classes))
        smallest = int(np.argmin(counts))
        if counts[smallest] < len(parts):
            raise ValueError(
                f"class {classes[smallest]!r} has {counts[smallest]} of the {len(rows)} training rows used; "
                f"it must have at least {len(parts)}, one for each of {', '.join(parts)}"
            )


def hold_out(rows: Split, num_held: int, *, seed: int, part: str, leave: int = 1) -> tuple[Split, Split]:
    """Cuts about `num_held` stratified rows off; returns (the rest, the rows held), in the order of `rows`.

    None are cut for 0; otherwise every class gives at least one row and keeps at least `leave`.
    """
    if num_held == 0:
        return rows, rows.take(np.zeros(0, dtype=np.int64))
    available = np.bincount(rows.labels)
    num_present = int((available > 0).sum())
    total = min(max(num_held, num_present), len(rows) - leave * num_present)
    generator = np.random.default_rng(stream_seed(seed, f"split/{part}"))
    held = draw(rows.labels, apportion(available, total, leave=leave), generator)
    return rows.take(~held), rows.take(held)


def _at_most(rows: Split, limit: int | None, *, seed: int, field: str) -> Split:
    """A stratified subset of `limit` rows, or all rows where there are no more."""
    if limit is None or limit >= len(rows):
        return rows
    num_present = len(np.unique(rows.labels))
    if limit < num_present:
        raise ValueError(f"{field} is {limit}; it must be at least {num_present}, one row for each class")
    generator = np.random.default_rng(stream_seed(seed, f"split/{field}"))
    return rows.take(draw(rows.labels, apportion(np.bincount(rows.labels), limit), generator))


def check_labels(rows: Split, *, part: str, classes: Sequence[str]) -> None:
    """Raises `ValueError` for a part without rows or with a label outside 0 ... len(classes) - 1."""
    if len(rows) == 0:
        raise ValueError(f"the {part} data have no rows; there must be at least one")
    wrong = np.flatnonzero((rows.labels < 0) | (rows.labels >= len(classes)))
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"row {rows.row_ids[row]} of the {part} data has label {rows.labels[row]}; "
            f"it must lie in 0 ... {len(classes) - 1}"
        )
