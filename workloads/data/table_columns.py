"""Turns the columns of a table into features: numbers with missing values filled in, and categories as numbers.

Everything is fitted on the training rows. A fitted column encodes the same column of any rows.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

Encoding = Literal["one_hot", "ordinal"]

Values = npt.NDArray[np.float64]

MAX_OTHERS = 8  # kinds of values that are no numbers in a column of numbers; more are taken for categories
MISSING = None  # the category of rows without a value
NOT_SEEN = -1  # the code of a category that no training row has
MAX_NUMBER = float(np.finfo(np.float32).max) / 2  # differences of two such numbers fit into float32


class FittedColumn(Protocol):
    """A column of the table, fitted on the training rows."""

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each feature over the training rows, or 0 where it stays as it is."""
        ...

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each feature over the training rows, or 1 where it stays as it is."""
        ...

    def encode(self, column: "pd.Series[Any]", *, where: str) -> Values:
        """Returns the features of a column of N rows: (N, F). where: file and column, for messages."""
        ...


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A column of numbers. Features are differences from the median of the training rows, which a missing value gets.

    A second feature is 1 where the value is missing and 0 elsewhere, if a training row has none.
    """

    median: float
    marks_missing: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, column: "pd.Series[Any]", *, where: str) -> "Numbers":
        """Raises `ValueError` for a column without a value, and for a number that is infinite or too large."""
        values = _as_numbers(column, where=where)
        missing = np.isnan(values)
        if missing.all():
            raise ValueError(f"{where} has no value in the training rows; name it in drop")
        median = float(np.median(values[~missing]))
        # Small numbers keep their digits in float32, whatever they are added to: a year, or seconds since 1970.
        shifted = np.where(missing, 0.0, values - median)
        std = float(shifted.std())
        marks_missing = bool(missing.any())
        return cls(
            median=median,
            marks_missing=marks_missing,
            mean=(float(shifted.mean()), *[0.0] * marks_missing),
            std=(std if std > 0 else 1.0, *[1.0] * marks_missing),
        )

    def encode(self, column: "pd.Series[Any]", *, where: str) -> Values:
        """See `FittedColumn`. Raises `ValueError` for text, and for a number that is infinite or too large."""
        values = _as_numbers(column, where=where)
        missing = np.isnan(values)
        shifted = np.where(missing, 0.0, values - self.median)
        return np.column_stack([shifted, missing]) if self.marks_missing else shifted[:, None]


@dataclass(frozen=True, kw_only=True)
class Categories:
    """A column of categories.

    one_hot: one feature for each category of the training rows, 1 or 0; all are 0 for a category that none of them has.
    ordinal: one feature, the position among the sorted categories of the training rows, and -1 for any other.
    A missing value is a category of its own.
    """

    positions: dict[str | None, int]
    encoding: Encoding
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, column: "pd.Series[Any]", *, encoding: Encoding, max_categories: int, where: str) -> "Categories":
        """Raises `ValueError` for more than `max_categories` with one_hot."""
        texts = as_text(column)
        found: list[str | None] = [*sorted({text for text in texts if text is not None})]
        found += [MISSING] * (MISSING in texts)
        if encoding == "one_hot" and len(found) > max_categories:
            _check_no_numbers(texts, where=where)
            raise ValueError(
                f"{where} has {len(found)} different values, such as {found[0]!r} and {found[1]!r}, and max_categories is "
                f"{max_categories}; raise it, set encoding: ordinal, or name the column in drop"
            )
        positions = {text: position for position, text in enumerate(found)}
        if encoding == "one_hot":
            return cls(positions=positions, encoding=encoding, mean=(0.0,) * len(found), std=(1.0,) * len(found))
        codes = np.array([positions[text] for text in texts], dtype=np.float64)
        return cls(positions=positions, encoding=encoding, mean=(float(codes.mean()),), std=(float(codes.std()) or 1.0,))

    def encode(self, column: "pd.Series[Any]", *, where: str) -> Values:
        """See `FittedColumn`."""
        codes = self.codes(column)
        if self.encoding == "ordinal":
            return codes.astype(np.float64)[:, None]
        one_hot: Values = (codes[:, None] == np.arange(len(self.positions))).astype(np.float64)
        return one_hot

    def codes(self, column: "pd.Series[Any]") -> npt.NDArray[np.int64]:
        """Returns the positions of the categories (N,), `NOT_SEEN` for one that no training row has."""
        return np.array([self.positions.get(text, NOT_SEEN) for text in as_text(column)], dtype=np.int64)


def is_text(column: "pd.Series[Any]") -> bool:
    """Returns whether a column holds categories whatever the spec says: text, or anything else but numbers and truth values.

    A column without a value holds none, whatever its type.
    """
    return not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)) and bool(column.notna().any())


def as_text(column: "pd.Series[Any]") -> list[str | None]:
    """Returns the categories of a column; whole numbers are the same text whether they were read as integers or as floats."""
    if pd.api.types.is_bool_dtype(column) or is_text(column):
        return [MISSING if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]
    return [MISSING if np.isnan(number) else f"{number:.17g}" for number in _floats(column)]


def _check_no_numbers(texts: list[str | None], *, where: str) -> None:
    """Raises `ValueError` that names the values that are no numbers, if these are few: most often missing ones, such as `?`."""
    values = pd.Series([text for text in texts if text is not MISSING], dtype=object)
    is_number = pd.to_numeric(values, errors="coerce").notna()
    others = values[~is_number].unique()
    if not 0 < len(others) <= min(MAX_OTHERS, values[is_number].nunique() - 1):
        return
    counts = f"{int(is_number.sum())} of {len(values)} values are numbers, and the others are {', '.join(map(repr, others))}"
    raise ValueError(f"{where} holds text: {counts}; leave these empty where a number is missing, or name the column in drop")


def _floats(column: "pd.Series[Any]") -> Values:
    # A column without a value may have a type that does not become numbers, such as dates.
    return column.to_numpy(dtype=np.float64, na_value=np.nan) if column.notna().any() else np.full(len(column), np.nan)


def _as_numbers(column: "pd.Series[Any]", *, where: str) -> Values:
    """Returns the numbers of a column (N,), NaN where they are missing. Raises `ValueError` for text, and above `MAX_NUMBER`."""
    if is_text(column):
        raise ValueError(f"{where} has text, such as {next(iter(column.dropna()), '')!r}, where the training rows have numbers")
    values = _floats(column)
    wrong = np.flatnonzero(np.abs(values) > MAX_NUMBER)
    if len(wrong):
        row, value = column.index[wrong[0]], values[wrong[0]]
        raise ValueError(f"{where}, row {row} is {value}; it must be a finite number, or missing, of at most {MAX_NUMBER:.1e}")
    return values
