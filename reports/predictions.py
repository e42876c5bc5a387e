"""Reads and writes the final network's logits by split, from which any calibration metric can be recomputed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pruneyard.reports import records
from pruneyard.reports.columns import number_column, text_column
from pruneyard.reports.durable import write_durably
from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.parquet import decode_table, encode_table

Prediction = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""`row_ids: (N,)`, `labels: (N,)`, `logits: (N, C)`. Labels of splits `ood.<set>` are -1: their rows belong to no class."""


@dataclass(frozen=True, kw_only=True)
class SplitPredictions:
    """The logits of one split: `row_ids: (N,)`, `labels: (N,)`, -1 for OOD inputs, `logits: (N, C)` float32."""

    row_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]


FILE = "predictions.parquet"  # among the artifacts of a run
NUM_EXTRA_KEY = b"num_extra"


def write_predictions(path: Location, splits: Mapping[str, Prediction], *, num_extra: int = 0) -> None:
    """Writes the content of `predictions_file` to `path`."""
    write_durably(path, predictions_file(splits, num_extra=num_extra))


def predictions_file(splits: Mapping[str, Prediction], *, num_extra: int = 0) -> memoryview:
    """Returns the bytes of a file with the columns `split`, `row_id`, `label` and `logits` (a list of C float32 per row).

    num_extra: number of last logits that are not classes (such as "unknown"); stored in the file's metadata.
    """
    widths = {split: logits.shape[1:] for split, (_, _, logits) in splits.items()}
    if len(set(widths.values())) != 1 or any(len(width) != 1 for width in widths.values()):
        raise ValueError(f"logits have shapes (N, *) {widths}; every split must have (N, C) with the same C")
    tables = [_table(split, *prediction) for split, prediction in splits.items()]
    # Each split comes with a dictionary of its own name only.
    table = pa.concat_tables(tables).unify_dictionaries()
    stated = {**table.schema.metadata, NUM_EXTRA_KEY: str(num_extra).encode()}
    # Hardly any logit comes twice: looking for those that do takes as long as all the rest, and makes the file larger.
    return encode_table(table.replace_schema_metadata(stated), compression="zstd", repetitive=["split"])


def read_predictions(path: Location) -> dict[str, Prediction]:
    """Returns the predictions by split, in the order written.

    Raises `DamagedFileError`, or `ValueError` for a file of a newer version.
    """
    table = decode_table(path, path.read_bytes())
    stated = int((table.schema.metadata or {}).get(records.VERSION_KEY, b"0"))
    if not 1 <= stated <= records.SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema_version {stated}; this pruneyard reads 1 to {records.SCHEMA_VERSION}: update"
        )
    names = table.column("split").to_numpy()
    row_ids, labels = (table.column(name).to_numpy() for name in ("row_id", "label"))
    logits = table.column("logits").combine_chunks()
    # A list column of fixed size is one flat buffer, so this copies nothing row by row.
    logits_NC = logits.flatten().to_numpy().reshape(len(table), logits.type.list_size)
    picked = {split: names == split for split in dict.fromkeys(names.tolist())}
    return {split: (row_ids[rows], labels[rows], logits_NC[rows]) for split, rows in picked.items()}


def named_predictions(path: Location) -> dict[str, SplitPredictions]:
    """Returns the predictions by split, with a name for each array; raises what `read_predictions` raises."""
    return {
        split: SplitPredictions(row_ids=row_ids, labels=labels, logits=logits)
        for split, (row_ids, labels, logits) in read_predictions(path).items()
    }


def read_splits(path: Location) -> frozenset[str]:
    """Returns the names of the splits in the file."""
    # One column only: `read_predictions` verifies the file before anything is computed from it.
    return frozenset(pq.read_table(_readable(path), columns=["split"]).column("split").unique().to_pylist())


def read_num_extra(path: Location) -> int:
    """Returns the number of last logits that are not classes; 0 for files without this metadata."""
    # Only the footer is read: `read_predictions` verifies the file before anything is computed from it.
    return int((pq.read_schema(_readable(path)).metadata or {}).get(NUM_EXTRA_KEY, b"0"))


def _readable(path: Location) -> Any:
    return pa.BufferReader(path.read_bytes()) if isinstance(path, ObjectPath) else path


def _table(
    split: str,
    row_ids: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    logits: npt.NDArray[np.float32],
) -> pa.Table:
    if not len(row_ids) == len(labels) == len(logits):
        raise ValueError(
            f"split {split} has {len(row_ids)} row_ids, {len(labels)} labels and {len(logits)} logits; "
            "they must be equally many"
        )
    num_classes = logits.shape[1]
    columns = [
        # All rows refer to entry 0, the only one.
        pa.DictionaryArray.from_arrays(number_column(np.zeros(len(row_ids), np.int32)), text_column([split])),
        number_column(np.asarray(row_ids, np.int64)),
        number_column(np.asarray(labels, np.int64)),
        pa.FixedSizeListArray.from_arrays(number_column(np.asarray(logits, np.float32).reshape(-1)), num_classes),
    ]
    return pa.table(columns, schema=_schema(num_classes))


@cache
def _schema(num_classes: int) -> pa.Schema:
    return pa.schema(
        {
            "split": pa.dictionary(pa.int32(), pa.string()),
            "row_id": pa.int64(),
            "label": pa.int64(),
            "logits": pa.list_(pa.float32(), num_classes),
        },
        metadata={records.VERSION_KEY: str(records.SCHEMA_VERSION).encode(), b"table": b"predictions"},
    )
