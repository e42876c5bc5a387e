"""Columns made without pandas are those that Arrow itself makes."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruneyard.reports import records
from pruneyard.reports.columns import column_of, number_column

KINDS = sorted({field.type for name in ("runs", "metrics", "curves") for field in records.schema(name)}, key=str)
VALUES = {
    pa.string(): st.text(),
    pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.sampled_from([3.0, np.float64(4.0), np.int16(5)]),
    pa.float64(): st.floats(allow_nan=False) | st.integers(-(2**53), 2**53) | st.just(np.float32(0.1)),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["val", "test", "ood.kmnist", ""]),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(UTC)),
}


@settings(deadline=None)  # the first call imports pandas
@given(data=st.data())
def test_every_type_of_the_tables_is_filled_as_by_arrow(data: st.DataObject) -> None:
    for kind in KINDS:
        values = data.draw(st.lists(st.none() | VALUES[kind], max_size=20))
        column = column_of(values, kind)
        column.validate(full=True)
        assert column.equals(pa.array(values, kind)), kind
        assert column.null_count == values.count(None)


def test_nan_stays_nan_and_is_not_missing() -> None:
    column = column_of([float("nan"), None], pa.float64())
    assert np.isnan(column[0].as_py())
    assert column.null_count == 1


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("3", pa.int64()),
        (1.5, pa.int64()),
        ("0.5", pa.float64()),
        (3, pa.string()),
        (datetime(2026, 1, 1), pa.timestamp("us", "UTC")),
    ],
)
def test_a_value_of_another_type_is_refused(value: object, kind: pa.DataType) -> None:
    with pytest.raises(TypeError):
        column_of([value], kind)


def test_a_number_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OverflowError):
        column_of([2**63], pa.int64())
    with pytest.raises(KeyError):
        column_of([0.5], pa.float32())


@pytest.mark.parametrize("array", [np.zeros((2, 3)), np.array([True, False])])
def test_an_array_of_two_dimensions_or_of_booleans_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="it must hold numbers in one dimension"):
        number_column(array)


def test_an_array_is_shared_and_a_transposed_one_copied() -> None:
    array = np.arange(6, dtype=np.float32)
    assert number_column(array).to_pylist() == array.tolist()
    assert number_column(array).buffers()[1].address == array.ctypes.data
    turned = array.reshape(2, 3).T[:, 0]
    assert number_column(turned).to_pylist() == [0, 1, 2]


def test_records_and_predictions_are_written_without_pandas() -> None:
    program = """
import sys
import numpy as np
from made_up_study import record
from pruneyard.reports.attempt import Attempt, tables_of
from pruneyard.reports.predictions import predictions_file
tables_of([Attempt(run=record(), metrics=[], curves=[])])
predictions_file({"val": (np.arange(3), np.arange(3), np.ones((3, 2), np.float32))})
print("pandas" in sys.modules)
"""
    tests = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=tests, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
