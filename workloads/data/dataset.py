"""A labelled data set in memory with four disjoint splits, and the base classes of data sources."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pruneyard.workloads import plugins
from pruneyard.workloads.data.input_statistics import Images, input_statistics
from pruneyard.workloads.data.stratify import apportion, sample_rows
from pruneyard.workloads.seeding import stream_seed


class DataNotFoundError(ValueError):
    """Raised if the files of a source are in none of the folders searched; the message names them and says how to get them.

    source: the source whose files they are, if the message begins with one of its keys. It may be part of another one's table.
    """

    def __init__(self, message: str, *, source: object = None) -> None:
        super().__init__(message)
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        return _not_found_again, (str(self), self.source)


def _not_found_again(message: str, source: object) -> DataNotFoundError:
    return DataNotFoundError(message, source=source)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Some rows of a data set.

    images: the inputs. Pixels are (N, C, H, W) uint8, or float32 in which black is 0 and white is 255; float32 values may lie
        outside that range. Features are float32 (N, F), or (N, C, ...) with any further axes.
    labels: (N,) int64.
    row_ids: (N,) int64, the position of each row in the publisher's file.
    pixels: whether the inputs are pixels; otherwise they are features, numbers without black and white.
    """

    images: Images
    labels: npt.NDArray[np.int64]
    row_ids: npt.NDArray[np.int64]
    pixels: bool = True

    def __post_init__(self) -> None:
        came = f"{self.images.dtype} {self.images.shape}"
        if self.pixels and (self.images.dtype not in (np.uint8, np.float32) or self.images.ndim != 4):
            raise ValueError(f"images are {came}; they must be uint8 or float32 (N, C, H, W)")
        if not self.pixels and (self.images.dtype != np.float32 or self.images.ndim < 2):
            raise ValueError(f"features are {came}; they must be float32 (N, F) or (N, C, ...)")
        for name, column in (("labels", self.labels), ("row_ids", self.row_ids)):
            if column.dtype != np.int64 or column.shape != (len(self.images),):
                came, allowed = f"{column.dtype} {column.shape}", f"int64 ({len(self.images)},)"
                raise ValueError(f"{name} are {came}; they must be {allowed}")

    @classmethod
    def from_arrays(cls, images: Images, labels: npt.ArrayLike, *, pixels: bool = True) -> "Split":
        """Creates a split of all rows of a file, in the order of the file."""
        return cls(
            images=np.ascontiguousarray(images),  # the layout that batches gather from
            labels=np.asarray(labels, dtype=np.int64),
            row_ids=np.arange(len(images)),
            pixels=pixels,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[Any]) -> "Split":
        """Returns a copy of some rows, selected by index or mask."""
        return Split(
            images=self.images[rows], labels=self.labels[rows], row_ids=self.row_ids[rows], pixels=self.pixels
        )


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set with four disjoint splits.

    mean, std: of the train split, per channel of images scaled to [0, 1], or per entry of the first axis of features.
    """

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
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one input: (C, H, W) of an image, (F,) of a row of a table."""
        return self.train.images.shape[1:]

    @property
    def pixels(self) -> bool:
        """Returns whether the inputs are pixels; otherwise they are features."""
        return self.train.pixels

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all arrays and class names, 16 hexadecimal digits: equal data have equal fingerprints on every machine."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        if not self.pixels:
            digest.update(b"features")
        for split in (self.train, self.val, self.calib, self.test):
            for array in (split.images, split.labels, split.row_ids):
                # The bytes alone do not tell (2, 8) from (4, 4).
                digest.update(str(array.shape).encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class PublishedDataset:
    """A data set as published, with training rows and test rows, and with rows of val and calib if it has them."""

    classes: tuple[str, ...]
    train: Split
    test: Split
    val: Split | None = None
    calib: Split | None = None


class Source(ABC):
    """The base class of data sources: frozen dataclasses in `workloads/data/sources` whose fields are a table of a spec."""

    renumbers_train: ClassVar[bool] = False  # True if train is not cut from the rows that val and calib are cut from

    @abstractmethod
    def load(self) -> Dataset:
        """Returns the data, the same at every call.

        Raises `DataNotFoundError`, or `ValueError` that names the damaged file or the field that does not fit the data.
        """

    def inputs(self) -> tuple[Path, ...] | None:
        """Returns the files and folders that `load` may read, besides those of other tables in its fields; `()` for none.

        As long as they are unchanged, so are the data. None, the default, says nothing: the data may have changed at any time.
        """
        return None

    def rests_on(self) -> "Source":
        """Returns the source whose rows this one selects from or replaces; the source itself if there is none."""
        return self


class WrappingSource(Source, ABC):
    """The base class of sources that select or change rows of another one, which their field `base` names."""

    base: Source

    def inputs(self) -> tuple[Path, ...]:
        """Returns `()`: the files are those of the base."""
        return ()

    def rests_on(self) -> Source:
        """Returns what the base rests on."""
        return self.base.rests_on()


@runtime_checkable
class KnowsProbabilities(Protocol):
    """A source that knows the true class probabilities of its images, because it generates them."""

    def probabilities(self, images: Images) -> npt.NDArray[np.float64]:
        """Returns the class probabilities (N, K) of stored images."""


@dataclass(frozen=True, kw_only=True)
class PublishedSource(Source, ABC):
    """The base class of sources of published rows. It takes val and calib from the published training rows.

    These splits are stratified, disjoint and a function of `split_seed`. The test split is the published one.
    """

    val_fraction: float = 0.1  # of the published training rows, for choosing between runs
    calib_fraction: float = 0.1  # of the published training rows, for fitting calibrators
    split_seed: int = 0
    max_train: int | None = None  # use at most this many training rows, val and calib included
    max_test: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("val_fraction", self.val_fraction), ("calib_fraction", self.calib_fraction)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; it must lie in [0, 1)")
        if self.val_fraction + self.calib_fraction >= 1:
            fractions = f"calib_fraction is {self.calib_fraction} and val_fraction is {self.val_fraction}"
            raise ValueError(f"{fractions}; their sum must be below 1, so that training rows are left")
        for name, limit in (("max_train", self.max_train), ("max_test", self.max_test)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} is {limit}; it must be at least 1")

    @abstractmethod
    def read(self) -> PublishedDataset:
        """Returns the published rows. Raises `DataNotFoundError`, or `ValueError` that names the damaged file."""

    def load(self) -> Dataset:
        """Reads, checks and splits the data."""
        return self.split(self.read())

    def split(self, published: PublishedDataset) -> Dataset:
        """Checks the published rows and cuts val and calib from the training rows, as far as they are not published."""
        given = {"train": published.train, "test": published.test, "val": published.val, "calib": published.calib}
        for part, rows in given.items():
            if rows is not None:
                check_labels(rows, part=part, classes=published.classes)
        if published.train.images.shape[1:] != published.test.images.shape[1:]:
            came, allowed = published.test.images.shape[1:], published.train.images.shape[1:]
            raise ValueError(
                f"test images are {came} (C, H, W); they must be {allowed} like the training images"
            )
        # Limited before the splits are cut, so that val and calib shrink in proportion.
        usable = _subsample(published.train, self.max_train, seed=self.split_seed, field="max_train")
        test = _subsample(published.test, self.max_test, seed=self.split_seed, field="max_test")
        cut = {
            part: fraction
            for part, fraction in (("val", self.val_fraction), ("calib", self.calib_fraction))
            if fraction > 0 and given[part] is None
        }
        check_class_sizes(usable, published.classes, parts=("train", *cut))
        num_val, num_calib = (round(cut.get(part, 0) * len(usable)) for part in ("val", "calib"))
        # val leaves two rows of each class if calib is cut next, so that train still gets one.
        train, val = hold_out(usable, num_val, seed=self.split_seed, part="val", leave=2 if num_calib else 1)
        train, calib = hold_out(train, num_calib, seed=self.split_seed, part="calib", leave=1)
        mean, std = input_statistics(train.images, pixels=train.pixels)
        return Dataset(
            name=plugins.name_of(self),
            classes=published.classes,
            mean=mean,
            std=std,
            train=train,
            val=val if published.val is None else published.val,
            calib=calib if published.calib is None else published.calib,
            test=test,
        )

    def test_only_dataset(self, classes: tuple[str, ...], test: Split) -> Dataset:
        """Returns a data set that has test rows only, as a set of out-of-distribution inputs may have.

        mean and std are those of the test rows.
        """
        check_labels(test, part="test", classes=classes)
        test = _subsample(test, self.max_test, seed=self.split_seed, field="max_test")
        mean, std = input_statistics(test.images, pixels=test.pixels)
        empty = test.take(np.zeros(0, dtype=np.int64))
        return Dataset(
            name=plugins.name_of(self),
            classes=classes,
            mean=mean,
            std=std,
            train=empty,
            val=empty,
            calib=empty,
            test=test,
        )


def hold_out(rows: Split, num_held_out: int, *, seed: int, part: str, leave: int = 1) -> tuple[Split, Split]:
    """Holds out about `num_held_out` stratified rows; returns (the remaining rows, the held-out rows), in the order of `rows`.

    If `num_held_out` is above 0, every class gives at least one row and keeps at least `leave` rows.
    """
    if num_held_out == 0:
        return rows, rows.take(np.zeros(0, dtype=np.int64))
    available = np.bincount(rows.labels)
    num_present = int((available > 0).sum())
    # At least one row of each class, and no more than what leaves `leave` rows of each.
    total = min(max(num_held_out, num_present), len(rows) - leave * num_present)
    generator = np.random.default_rng(stream_seed(seed, f"split/{part}"))
    held_out = sample_rows(rows.labels, apportion(available, total, leave=leave), generator)
    return rows.take(~held_out), rows.take(held_out)


def _subsample(rows: Split, limit: int | None, *, seed: int, field: str) -> Split:
    """Returns a stratified subset of `limit` rows, or all rows if there are at most that many."""
    if limit is None or limit >= len(rows):
        return rows
    num_present = len(np.unique(rows.labels))
    if limit < num_present:
        raise ValueError(f"{field} is {limit}; it must be at least {num_present}, one row for each class")
    generator = np.random.default_rng(stream_seed(seed, f"split/{field}"))
    return rows.take(sample_rows(rows.labels, apportion(np.bincount(rows.labels), limit), generator))


def check_labels(rows: Split, *, part: str, classes: Sequence[str]) -> None:
    """Raises `ValueError` if a part has no rows, or a label outside 0 ... len(classes) - 1."""
    if len(rows) == 0:
        raise ValueError(f"the {part} data have no rows; there must be at least one")
    wrong = np.flatnonzero((rows.labels < 0) | (rows.labels >= len(classes)))
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"row {rows.row_ids[row]} of the {part} data has label {rows.labels[row]}; "
            f"it must lie in 0 ... {len(classes) - 1}{base_hint(rows.labels)}"
        )


def base_hint(labels: npt.NDArray[np.int64]) -> str:
    """Returns a hint, to end an error message, if the labels run from 1 upwards without a gap; otherwise an empty text."""
    counts = np.bincount(labels[labels >= 0], minlength=2)
    return "; labels start at 0, and these seem to start at 1: subtract 1" if counts[0] == 0 and counts[1:].all() else ""


def check_class_sizes(rows: Split, classes: Sequence[str], *, parts: Sequence[str]) -> None:
    """Raises `ValueError` if a class has fewer training rows than one for each of `parts`, which are cut from them."""
    counts = np.bincount(rows.labels, minlength=len(classes))
    smallest = int(np.argmin(counts))
    if counts[smallest] < len(parts):
        raise ValueError(
            f"class {classes[smallest]!r} has {counts[smallest]} of the {len(rows)} training rows used; "
            f"it must have at least {len(parts)}, one for each of {', '.join(parts)}{base_hint(rows.labels)}"
        )
