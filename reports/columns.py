"""Columns of Arrow tables without pandas, which `pa.array` imports first: half a second of the start of a trial's process."""

from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)

_CODES = {pa.float64(): "d", pa.int64(): "q", pa.int32(): "i", pa.timestamp("us", "UTC"): "q"}  # of `array`


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Returns the values as a column of a type that the tables of results have; None becomes null.

    Raises `TypeError`, `ValueError` or `OverflowError` for a value that the type cannot hold, and `KeyError` for another type.
    """
    if pa.types.is_dictionary(kind):
        codes = {text: code for code, text in enumerate(dict.fromkeys(value for value in values if value is not None))}
        indices = column_of([None if value is None else codes[value] for value in values], kind.index_type)
        return pa.DictionaryArray.from_arrays(indices, text_column(list(codes)))
    if pa.types.is_string(kind):
        return text_column(values)
    if pa.types.is_timestamp(kind):
        values = [None if value is None else (value - _EPOCH) // _MICROSECOND for value in values]
    elif pa.types.is_integer(kind):
        values = [None if value is None else _whole(value) for value in values]
    plain = array(_CODES[kind], (0 if value is None else value for value in values))  # unlike NumPy, it takes numbers only
    return pa.Array.from_buffers(kind, len(values), [_validity(values), pa.py_buffer(plain)])


def text_column(values: Sequence[str | None]) -> pa.Array:
    """Returns the texts as a column of strings; None becomes null."""
    encoded = [b"" if value is None else str.encode(value) for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)), _validity(values))


def number_column(values: npt.NDArray[Any]) -> pa.Array:
    """Returns the numbers (N,) as a column of their own type; an array that is contiguous is not copied."""
    if values.ndim != 1 or values.dtype == bool:
        raise ValueError(f"the array is {values.dtype} of shape {values.shape}; it must hold numbers in one dimension")
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
    )


def _whole(value: Any) -> int:
    """Returns a number without a fraction as an integer."""
    if (number := int(value)) != value:
        raise TypeError(f"{value!r} is no integer")
    return number


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    """Returns the bitmap of the values that are not None; None if all are."""
    valid = np.fromiter((value is not None for value in values), bool, len(values))
    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
