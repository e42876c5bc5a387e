"""Columns of Arrow tables without pandas, which `pa.array` imports first: half a second of the start of a trial's process."""

from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import accumulate
from operator import is_not
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)

_IS_VALUE = partial(is_not, None)  # in C: a lambda would take most of the time of a column

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
    validity = _validity(values)
    numbers = values if validity is None else [0 if value is None else value for value in values]
    try:
        plain = array(_CODES[kind], numbers)  # unlike NumPy, it takes numbers only
    except TypeError:
        if not pa.types.is_integer(kind):
            raise
        plain = array(_CODES[kind], map(_whole, numbers))
    return pa.Array.from_buffers(kind, len(values), [validity, pa.py_buffer(plain)])


def text_column(values: Sequence[str | None]) -> pa.Array:
    """Returns the texts as a column of strings; None becomes null."""
    validity = _validity(values)
    encoded = [b"" if value is None else str.encode(value) for value in values]
    ends = array("i", accumulate(map(len, encoded), initial=0))
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)), validity)


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
    if all(map(_IS_VALUE, values)):
        return None
    valid = np.fromiter(map(_IS_VALUE, values), bool, len(values))
    return pa.py_buffer(np.packbits(valid, bitorder="little"))
