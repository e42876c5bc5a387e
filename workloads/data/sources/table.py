"""Your own table, CSV or Parquet: columns of numbers and categories, and a target column with the classes.

PATH is a file (.csv, .tsv, .parquet), or a folder with a file called train and others called val, calib and test as far as they
exist; a column `split` of a single file names them, too. Other splits are cut from the training rows. Numbers are standardised; a
missing one gets the median, and a feature says that it was missing. Columns of text, and those that `categorical` names, are
categories. All of this is fitted on the training rows alone. The target is classes, whole numbers or text; regression is not
supported. Rows count from 0 in each file, or in each split that a column names.

Reference: Borisov et al. 2024, Deep Neural Networks and Tabular Data: A Survey (arXiv:2110.01889), for the encodings
"""

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from pruneyard.workloads.data.array_splits import PARTS, splits_of
from pruneyard.workloads.data.dataset import Dataset, PublishedDataset, Split
from pruneyard.workloads.data.folders import check_fetched
from pruneyard.workloads.data.table_columns import (
    NOT_SEEN,
    Categories,
    Encoding,
    FittedColumn,
    Numbers,
    is_text,
)
from pruneyard.workloads.data.table_roles import SPLIT, check_features, parts_of
from pruneyard.workloads.data.user_files import UserFileSource
from pruneyard.workloads.plugins import Settings

__all__ = ["Table"]

logger = logging.getLogger(__name__)

SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"

Frames = Mapping[str, pd.DataFrame]
"""The rows of the files by split."""


@dataclass(frozen=True, kw_only=True)
class Table(UserFileSource):
    examples: ClassVar[tuple[Settings, ...]] = ({"path": "table.csv", "target": "kind"},)
    target: str  # the column of the classes
    categorical: tuple[str, ...] = ()  # columns of numbers that are categories; those of text always are
    drop: tuple[str, ...] = ()  # columns that are not read, such as identifiers
    classes: tuple[str, ...] = ()  # names by label; (): the labels themselves
    encoding: Encoding = "one_hot"  # of categories
    max_categories: int = 100  # of a column with one_hot; more are refused, since they are most often identifiers
    separator: str = ""  # of CSV files; "": a comma, or a tab in .tsv

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_categories < 2:
            raise ValueError(f"max_categories is {self.max_categories}; it must be at least 2")
        for name in ("categorical", "drop"):
            if self.target in getattr(self, name):
                raise ValueError(f"{name} has {self.target!r}, which is the target; leave it out")

    def read(self) -> PublishedDataset:
        """Returns the rows with their labels alone: features are fitted on those that `load` leaves for training."""
        return self._labelled_rows(self._frames())

    def load(self) -> Dataset:
        """Reads, checks, splits and encodes the data."""
        frames = self._frames()
        data = self.split(self._labelled_rows(frames))
        columns = [name for name in frames["train"].columns if name not in (self.target, *self.drop)]
        if not columns:
            raise ValueError(f"{self.path} has no column besides the target {self.target!r}; it must have one or more")
        tables = _rows_by_split(frames, data)
        fitted = {name: self._fit(tables["train"][name]) for name in columns}
        self._say(fitted, tables)
        encoded = {}
        for part, table in tables.items():
            where = self._named(part if part in frames else "train", frames)
            encoded[part] = _with_features(getattr(data, part), fitted, table, where=where)
        return replace(
            data,
            mean=tuple(value for column in fitted.values() for value in column.mean),
            std=tuple(value for column in fitted.values() for value in column.std),
            train=encoded["train"],
            val=encoded["val"],
            calib=encoded["calib"],
            test=encoded["test"],
        )

    def _fit(self, column: "pd.Series[Any]") -> FittedColumn:
        where = f"{self.path}, column {column.name}"
        if pd.api.types.is_datetime64_any_dtype(column):
            raise ValueError(f"{where} holds dates; name it in drop, or turn it into numbers")
        if is_text(column) or column.name in self.categorical:
            return Categories.fit(column, encoding=self.encoding, max_categories=self.max_categories, where=where)
        return Numbers.fit(column, where=where)

    def _labelled_rows(self, frames: Frames) -> PublishedDataset:
        labels = {}
        hint = "" if self.path.endswith(PARQUET) else "; in text files None, NA and null count as missing: rename such a class"
        names = {part: (f"{self.path}, {part}", f"{self._named(part, frames)}, column {self.target}") for part in frames}
        for part, frame in frames.items():
            target = frame[self.target]
            if missing := np.flatnonzero(target.isna()).tolist():
                raise ValueError(f"{names[part][1]}, row {missing[0]} has no value; every row must have a class{hint}")
            labels[part] = target.to_numpy(dtype=str) if is_text(target) else target.to_numpy()
        nothing = {part: np.zeros((len(frame), 1), dtype=np.float32) for part, frame in frames.items()}
        return self.published(*splits_of(nothing, labels, names=names, classes=self.classes))

    def _named(self, part: str, frames: Frames) -> str:
        """Returns what messages call the file of a split."""
        return f"{self.path}, {part}" if len(frames) > 1 else self.path

    def _frames(self) -> Frames:
        """Returns the columns of every file. Raises `ValueError` if a column that the table names is missing in one."""
        place = self.found(put="a .csv, .tsv or .parquet file or a folder of them")
        files = _files_of(place) if place.is_dir() else {"train": place}
        check_fetched(list(files.values()))
        frames = {part: self._read_file(file) for part, file in files.items()}
        named = {"target": (self.target,), "categorical": self.categorical, "drop": self.drop}
        for part, frame in frames.items():
            needed = {**named, "train": tuple(frames["train"].columns)}
            for key, names in needed.items():
                for name in names:
                    if name not in frame.columns:
                        self._refuse_column(key, name, frame, files[part])
        # Positions are the rows that messages name, whatever index a Parquet file has.
        frames = {part: frame[frames["train"].columns].reset_index(drop=True) for part, frame in frames.items()}
        return self._by_split(frames)

    def _by_split(self, frames: Frames) -> Frames:
        """Returns the rows by split, as files or a column name them. Raises `ValueError` if both do, or a feature has no name."""
        table = frames["train"]
        features = [name for name in table.columns if name not in (self.target, *self.drop, *self.categorical)]
        check_features(table, features, place=self.path)
        parts = parts_of(table, place=self.path) if SPLIT in features else None
        if parts is not None and len(frames) > 1:
            raise ValueError(f"{self.path}, column {SPLIT} names splits, as the files do; list {SPLIT} in drop")
        return parts or frames

    def _refuse_column(self, key: str, name: str, frame: pd.DataFrame, file: Path) -> None:
        known = [str(column) for column in frame.columns]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        if len(known) == 1 and file.suffix != PARQUET:
            hint += "; the file has one column, so set separator if it is not a comma"
        subject = f"{key} has {name!r}" if key != "train" else f"the training rows have {name!r}"
        raise ValueError(f"{subject}, which is no column of {file}; its columns are {', '.join(known[:20])}{hint}")

    def _read_file(self, file: Path) -> pd.DataFrame:
        if file.suffix not in (*SEPARATORS, PARQUET):
            raise ValueError(f"path is {self.path!r}; it must be a file that ends in .csv, .tsv or .parquet, or a folder of them")
        try:
            if file.suffix == PARQUET:
                return pd.read_parquet(file)
            separator = self.separator or SEPARATORS[file.suffix]
            # In chunks, types would be inferred for each chunk, and one category be 1 in some and 1.0 in others.
            return pd.read_csv(file, sep=separator, skipinitialspace=True, low_memory=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error

    def _say(self, fitted: Mapping[str, FittedColumn], tables: Frames) -> None:
        """Logs which columns had missing values, and which rows have a category that no training row has."""
        for name, column in fitted.items():
            missing = {part: int(table[name].isna().sum()) for part, table in tables.items()}
            if isinstance(column, Numbers) and any(missing.values()):
                counts = ", ".join(f"{count} {part}" for part, count in missing.items() if count)
                mark = ", and a feature says so" if column.marks_missing else ""
                logger.warning("%s, column %s: %s rows get the median %g%s", self.path, name, counts, column.median, mark)
            if isinstance(column, Categories):
                for part, table in tables.items():
                    if new := np.flatnonzero(column.codes(table[name]) == NOT_SEEN).tolist():
                        value = table[name].iloc[new[0]]
                        rows = f"{len(new)} {part} rows have a category that no training row has, the first is {value!r}"
                        logger.warning("%s, column %s: %s", self.path, name, rows)


def _files_of(folder: Path) -> dict[str, Path]:
    """Returns the file of each split in a folder. Raises `ValueError` if train is missing, or one split has two files."""
    found: dict[str, Path] = {}
    for part in PARTS:
        files = [folder / f"{part}{suffix}" for suffix in (*SEPARATORS, PARQUET) if (folder / f"{part}{suffix}").exists()]
        if len(files) > 1:
            raise ValueError(f"{files[0]} and {files[1].name} are the same split; leave one of them out")
        if files:
            found[part] = files[0]
    if "train" not in found:
        raise ValueError(f"{folder} has no train.csv, train.tsv or train.parquet; it must have one of them")
    return found


def _rows_by_split(frames: Frames, data: Dataset) -> dict[str, pd.DataFrame]:
    """Returns the rows of each split, with the types of its own file: other files must not decide how columns are read."""
    starts, first = {}, 0
    for part in (part for part in PARTS if part in frames):
        # Row ids count through all files but that of the test rows.
        starts[part] = 0 if part == "test" else first
        first += len(frames[part])
    tables = {}
    for part in PARTS:
        own = part if part in frames else "train"
        tables[part] = frames[own].iloc[getattr(data, part).row_ids - starts[own]]
    return tables


def _with_features(rows: Split, fitted: Mapping[str, FittedColumn], table: pd.DataFrame, *, where: str) -> Split:
    encoded = [column.encode(table[name], where=f"{where}, column {name}") for name, column in fitted.items()]
    features = np.concatenate(encoded, axis=1)
    return replace(rows, images=np.ascontiguousarray(features, dtype=np.float32))
