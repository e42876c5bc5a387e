"""Class names as the Hugging Face hub declares them, and the footers of Parquet files against pyarrow."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import cells, write_parquet

from pruneyard.workloads.data.parquet_footer import key_value_metadata
from pruneyard.workloads.data.sources.image_parquet import ImageParquet

NAMES = ["owl", "jay", "elk"]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
OTHER_LABEL = {"names": ["x", "y"], "_type": "ClassLabel"}
README = """---
license: mit
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': owl
          '1': jay
          '2': elk
  splits:
  - name: train
    num_examples: 20
---
# Birds
"""


def write_shard(file: Path, num: int, *, features: dict[str, Any] | None, num_classes: int = 2) -> None:
    """Writes a shard as `datasets` does: the features are JSON under the key `huggingface` of the schema's metadata."""
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata=None if features is None else {"huggingface": json.dumps({"info": {"features": features}})},
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": cells(num), "label": [label % num_classes for label in range(num)]}
    with pq.ParquetWriter(file, schema) as writer:
        writer.write_table(pa.table(rows, schema=schema), row_group_size=8)


def test_names_come_from_the_metadata_of_the_shards(data_folder: Path) -> None:
    for part in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write_shard(data_folder / "birds" / "data" / f"{part}.parquet", 20, features=FEATURES, num_classes=3)
    published = ImageParquet(path="birds").read()
    assert published.classes == ("owl", "jay", "elk")
    assert published.train.labels.tolist() == [row % 3 for row in range(20)] * 2


def test_declared_classes_after_the_largest_label_are_left_out(data_folder: Path) -> None:
    write_shard(data_folder / "train.parquet", 20, features=FEATURES)
    assert ImageParquet(path=str(data_folder)).read().classes == ("owl", "jay")


def test_names_that_the_spec_gives_win(data_folder: Path) -> None:
    write_shard(data_folder / "train.parquet", 20, features=FEATURES)
    assert ImageParquet(path=str(data_folder), classes=("a", "b")).read().classes == ("a", "b")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("README.md", README),
        ("README.md", README.replace("  features:", "- config_name: plain\n  features:")),
        ("dataset_infos.json", json.dumps({"default": {"features": {"label": {"num_classes": 3, **FEATURES["label"]}}}})),
    ],
)
def test_names_come_from_the_files_beside_shards_without_metadata(data_folder: Path, file: str, text: str) -> None:
    write_shard(data_folder / "birds" / "data" / "train-00000-of-00001.parquet", 20, features=None, num_classes=3)
    (data_folder / "birds" / file).write_text(text)
    assert ImageParquet(path="birds").read().classes == ("owl", "jay", "elk")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("README.md", "# Birds without a header\n"),
        ("README.md", "---\ndataset_info: [\n---\n"),
        ("README.md", README.replace("name: label", "name: kind")),
        ("dataset_infos.json", "{"),
        ("dataset_infos.json", json.dumps({"a": {"features": FEATURES}, "b": {"features": {"label": OTHER_LABEL}}})),
    ],
)
def test_labels_stay_numbers_where_nothing_certain_is_declared(data_folder: Path, file: str, text: str) -> None:
    write_shard(data_folder / "train.parquet", 20, features={"label": {"dtype": "int64", "_type": "Value"}})
    (data_folder / file).write_text(text)
    assert ImageParquet(path=str(data_folder)).read().classes == ("0", "1")


def test_shards_that_contradict_each_other_are_refused_by_name(data_folder: Path) -> None:
    write_shard(data_folder / "train-0.parquet", 20, features=FEATURES)
    write_shard(data_folder / "train-1.parquet", 20, features={"label": OTHER_LABEL})
    with pytest.raises(ValueError, match=r"train-0.parquet and \S+train-1.parquet declare different classes of column label"):
        ImageParquet(path=str(data_folder)).read()


def test_a_label_beyond_the_declared_names_is_refused(data_folder: Path) -> None:
    write_shard(data_folder / "train.parquet", 20, features={"label": {"names": ["owl"], "_type": "ClassLabel"}})
    with pytest.raises(ValueError, match=r"train.parquet, row 1 has label 1; it must lie in 0 ... 0"):
        ImageParquet(path=str(data_folder)).read()


@pytest.mark.parametrize("compression", ["snappy", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.6"])
def test_the_metadata_of_a_footer_equals_that_of_pyarrow(tmp_path: Path, version: str, compression: str) -> None:
    numbers = np.arange(5000)
    table = pa.table({"a": numbers, "b": numbers.astype(str), "c": numbers % 2 == 0, "d": [[1, 2]] * 5000, "e": numbers / 3})
    stored = {"one": "1", "long": "x" * 100_000, "umlaut": "ä\n", "": "no key"}
    file = tmp_path / "table.parquet"
    pq.write_table(
        table.replace_schema_metadata(stored), file, row_group_size=100, version=version, compression=compression,
        write_page_index=True, sorting_columns=[pq.SortingColumn(0, descending=True)],
    )
    expected = {key.decode(): value.decode() for key, value in pq.read_metadata(file).metadata.items()}
    found = key_value_metadata(file)
    assert found == expected
    assert {key: found[key] for key in stored} == stored


def test_a_file_without_metadata_has_none(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "table.parquet", store_schema=False)
    assert key_value_metadata(tmp_path / "table.parquet") == {}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"a,b\n1,2\n", b"PAR1" + (1000).to_bytes(4, "little") + b"PAR1"])
def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"table.parquet is no Parquet file, or it is cut short"):
        key_value_metadata(tmp_path / "table.parquet")


def test_a_damaged_footer_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "whole.parquet", cells(3), np.array([0, 1, 0]))
    whole = (tmp_path / "whole.parquet").read_bytes()
    length = int.from_bytes(whole[-8:-4], "little")
    (tmp_path / "damaged.parquet").write_bytes(whole[: -8 - length] + b"\xff" * length + whole[-8:])
    with pytest.raises(ValueError, match=r"damaged.parquet has a footer that cannot be read"):
        key_value_metadata(tmp_path / "damaged.parquet")
