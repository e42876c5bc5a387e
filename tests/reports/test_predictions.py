"""Logits are read back from the file bit for bit."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruneyard.reports.predictions import read_num_extra, read_predictions, write_predictions


def split(num, num_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((num, num_classes)).astype(np.float32)
    return rng.permutation(num), rng.integers(0, num_classes, num), logits


def test_predictions_come_back_bit_for_bit(tmp_path):
    splits = {"val": split(5), "test": split(1000, seed=1), "calib": split(0)}
    splits["val"][2][0] = [np.nan, np.inf, -np.inf]
    path = tmp_path / "deep" / "predictions.parquet"
    write_predictions(path, splits)
    found = read_predictions(path)
    assert list(found) == ["val", "test"]
    for name in found:
        for written, read in zip(splits[name], found[name], strict=True):
            np.testing.assert_array_equal(written, read)
        assert found[name][2].dtype == np.float32


def test_the_columns_are_the_documented_ones(tmp_path):
    path = tmp_path / "predictions.parquet"
    write_predictions(path, {"test": split(4)})
    table = pq.read_table(path)
    assert set(table.column_names) == {"split", "row_id", "label", "logits"}
    assert table.schema.field("logits").type == pa.list_(pa.float32(), 3)


def test_splits_of_different_width_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same C"):
        write_predictions(tmp_path / "p.parquet", {"val": split(4, 3), "test": split(4, 5)})
    with pytest.raises(ValueError, match="same C"):
        write_predictions(tmp_path / "p.parquet", {})


def test_unequal_lengths_are_refused(tmp_path):
    row_ids, labels, logits = split(4)
    with pytest.raises(ValueError, match="equally many"):
        write_predictions(tmp_path / "p.parquet", {"test": (row_ids[:3], labels, logits)})


def test_a_foreign_file_is_refused(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="schema_version 0"):
        read_predictions(tmp_path / "p.parquet")


@pytest.mark.parametrize(("given", "found"), [({}, 0), ({"num_extra": 1}, 1)])
def test_the_file_says_how_many_of_its_outputs_are_no_classes(tmp_path, given, found):
    """A reader that took a softmax over the classes alone would undo what the output for "unknown" says."""
    path = tmp_path / "p.parquet"
    write_predictions(path, {"test": split(4)}, **given)
    assert read_num_extra(path) == found
    assert pq.read_schema(path).metadata[b"table"] == b"predictions"
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"schema_version": b"1"}), path)
    assert read_num_extra(path) == 0
