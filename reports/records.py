"""The documented, versioned Parquet schemas of the tables `runs`, `metrics`, `curves` and `latency`.

A record class is the single source of its table: names, types, nullability and descriptions are read from it.
"""

import inspect
import types
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

SCHEMA_VERSION = 1
VERSION_KEY = b"schema_version"

_TEXT = pa.string()
# Texts that many rows repeat, such as run keys, are stored once and referred to by number.
_REPEATED_TEXT = pa.dictionary(pa.int32(), pa.string())
_COUNT = pa.int64()
_NUMBER = pa.float64()
_TIME = pa.timestamp("us", tz="UTC")


class Status(StrEnum):
    """The final status of a run."""

    COMPLETED = "COMPLETED"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"

    @property
    def is_final(self) -> bool:
        """True if the run is finished and does not run again unless the user asks for it."""
        return self in (Status.COMPLETED, Status.PRUNED)


@dataclass(frozen=True)
class Column:
    """Arrow type of a field and its description."""

    type: pa.DataType
    description: str


_RunKey = Annotated[str, Column(_REPEATED_TEXT, "run the row belongs to")]
_Attempt = Annotated[int, Column(_COUNT, "attempt of that run which wrote the row")]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One row of `runs`: one attempt of one job, written when the attempt ended."""

    run_key: Annotated[str, Column(_TEXT, "short hash of the resolved spec; same key, same numbers")]
    study: Annotated[str, Column(_TEXT, "name of the spec the run was planned by")]
    stage: Annotated[str | None, Column(_TEXT, "stage of a chain; null outside chains")]
    kind: Annotated[str, Column(_TEXT, "family of jobs: sparse, distill, calibrate, nodes")]
    trial_id: Annotated[str | None, Column(_TEXT, "the scheduler's name of the trial; null without one")]
    attempt: Annotated[int, Column(_COUNT, "number of this attempt; the newest counts")]
    parent_key: Annotated[
        str | None, Column(_TEXT, "run this one was copied from or took its input from; null if none")
    ]
    status: Annotated[Status, Column(_TEXT, "COMPLETED, PRUNED (stopped early), FAILED or INTERRUPTED")]
    error: Annotated[str | None, Column(_TEXT, "traceback of a failed attempt; null otherwise")]
    seed: Annotated[int, Column(_COUNT, "seed of every random stream of the run")]
    data: Annotated[str, Column(_TEXT, "name of the data set")]
    model: Annotated[str, Column(_TEXT, "name of the model")]
    method: Annotated[str, Column(_TEXT, "name of the method")]
    density: Annotated[
        float | None,
        Column(
            _NUMBER,
            "the method's target density, of the prunable weights that are not kept dense; in (0, 1], null "
            "where not applicable",
        ),
    ]
    ipc: Annotated[int | None, Column(_COUNT, "synthetic images per class; null where not applicable")]
    spec_json: Annotated[str, Column(_TEXT, "the resolved spec of this one job as JSON")]
    started_at: Annotated[datetime, Column(_TIME, "when the attempt started, UTC")]
    ended_at: Annotated[datetime, Column(_TIME, "when the attempt ended, UTC")]
    wall_s: Annotated[float, Column(_NUMBER, "seconds from start to end, set-up and evaluation included")]
    train_s: Annotated[float | None, Column(_NUMBER, "seconds spent in training steps")]
    device: Annotated[str, Column(_TEXT, "device the run computed on")]
    num_workers: Annotated[int, Column(_COUNT, "ranks the run was trained with")]
    train_flops: Annotated[
        float | None,
        Column(_NUMBER, "counted training FLOPs (2 per multiply-add) with masks; null if not countable"),
    ]
    num_parameters: Annotated[int | None, Column(_COUNT, "all trainable parameters")]
    num_active: Annotated[int | None, Column(_COUNT, "parameters not masked out at the end")]
    peak_memory_bytes: Annotated[
        int | None,
        Column(_COUNT, "largest memory in use: a GPU's by tensors, else the process's resident; null if not measured"),
    ]
    code_version: Annotated[str, Column(_TEXT, "version of pruneyard")]
    torch_version: Annotated[str, Column(_TEXT, "version of torch")]
    artifact: Annotated[
        str | None, Column(_TEXT, "folder of the run's artifacts, relative to the results folder; null if it has none")
    ]
    identity_json: Annotated[
        str | None,
        Column(
            _TEXT,
            "the part of spec_json that may change a number; equal up to the seed for repetitions",
        ),
    ] = None
    data_fingerprint: Annotated[
        str | None, Column(_TEXT, "hash of the data arrays of the run; null if not known")
    ] = None
    data_read: Annotated[
        str | None,
        Column(
            _TEXT,
            "JSON object: hash of every real data set that the run, or its input, rests on, by spec key; null if not known",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """One row of `metrics`: one value of one metric at one evaluation.

    The run key and the attempt are added on writing.
    """

    step: Annotated[int, Column(_COUNT, "optimizer updates done")]
    epoch: Annotated[float, Column(_NUMBER, "passes over the training split, derived from step, for display")]
    split: Annotated[
        str, Column(_REPEATED_TEXT, "train, val, calib, test, ood (mean over OOD sets) or `ood.<set>`")
    ]
    name: Annotated[str, Column(_REPEATED_TEXT, "name of the metric: accuracy, nll, ece, flops, ...")]
    value: Annotated[
        float, Column(_NUMBER, "fractions, never percent; nats; FLOPs so far; NaN if the run gave NaN")
    ]
    wall_s: Annotated[
        float, Column(_NUMBER, "seconds of training so far, over all attempts, evaluation excluded")
    ]


@dataclass(frozen=True, kw_only=True)
class CurveRow:
    """One row of `curves`: one point of a curve.

    The run key and the attempt are added on writing.

    Known names: `density` (key = layer, y = its density), `reliability` (key = split, x = mean confidence of the bin,
    y = accuracy in the bin, count = samples in the bin), `reliability_positive` (the same of the positive class of two:
    x = mean probability of that class, y = share of its samples in the bin) and `class_accuracy` (key = class, x = its
    number, y = accuracy on its test samples, count = their number).
    """

    name: Annotated[str, Column(_REPEATED_TEXT, "name of the curve: density, reliability, ...")]
    step: Annotated[int, Column(_COUNT, "optimizer updates done at this point")]
    key: Annotated[str, Column(_REPEATED_TEXT, "which line of the curve: a layer, a split")]
    x: Annotated[float | None, Column(_NUMBER, "abscissa; null for a single value per key")] = None
    y: Annotated[float, Column(_NUMBER, "ordinate of the point, or the one value of its key")]
    count: Annotated[int | None, Column(_COUNT, "number of samples of the point; null if not applicable")] = None


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """One row of `latency`: one network in one format, timed alternately with its dense version in the same process.

    Measuring the same run, format, batch size, threads and device again replaces the row.
    """

    run_key: Annotated[str, Column(_TEXT, "run that trained the network")]
    format: Annotated[str, Column(_TEXT, "export format: csr, gather, auto, onnx, ...")]
    batch_size: Annotated[int, Column(_COUNT, "images of one forward pass")]
    threads: Annotated[int, Column(_COUNT, "threads of torch, or of the format's own runtime")]
    device: Annotated[str, Column(_TEXT, "model name of the CPU or GPU")]
    median_s: Annotated[float, Column(_NUMBER, "seconds of one forward pass, median of the repeats")]
    low_s: Annotated[float, Column(_NUMBER, "10th percentile of the seconds")]
    high_s: Annotated[float, Column(_NUMBER, "90th percentile of the seconds")]
    dense_median_s: Annotated[float, Column(_NUMBER, "median seconds of the whole network, no channel removed, on dense kernels")]
    speedup: Annotated[
        float,
        Column(_NUMBER, "median of dense / exported seconds over the repeats; below 1 the format is slower"),
    ]
    speedup_low: Annotated[float, Column(_NUMBER, "10th percentile of the speed-up")]
    speedup_high: Annotated[float, Column(_NUMBER, "90th percentile of the speed-up")]
    size_bytes: Annotated[int, Column(_COUNT, "size of the exported file")]
    dense_size_bytes: Annotated[int, Column(_COUNT, "size of a file with all weights of the whole network and no masks")]
    num_repeats: Annotated[int, Column(_COUNT, "number of alternating measurements of each network")]
    measured_at: Annotated[datetime, Column(_TIME, "time of the measurement, UTC")]
    torch_version: Annotated[str, Column(_TEXT, "version of torch")]
    density: Annotated[
        float, Column(_NUMBER, "active share of all prunable weights of this network, in (0, 1]")
    ]
    forward_flops: Annotated[
        float, Column(_NUMBER, "counted FLOPs of one image with masks: theory, not measured")
    ]
    dense_forward_flops: Annotated[float, Column(_NUMBER, "counted FLOPs of one image through the whole network without masks")]
    kernels: Annotated[
        str, Column(_TEXT, "JSON object: kernel of each weight; `dense` for layers that stay dense")
    ]
    max_difference: Annotated[
        float,
        Column(_NUMBER, "largest difference to a logit of the dense network, relative to the largest logit"),
    ]
    load: Annotated[
        float | None, Column(_NUMBER, "system load average of the previous minute; null if unknown")
    ]


@dataclass(frozen=True)
class _Owner:
    """The columns that the store adds to metric and curve rows."""

    run_key: _RunKey
    attempt: _Attempt


TABLES: dict[str, tuple[type[Any], ...]] = {
    "runs": (RunRecord,),
    "metrics": (_Owner, MetricRow),
    "curves": (_Owner, CurveRow),
    "latency": (LatencyRow,),
}
"""Record classes by table; their fields, in order, are its columns."""

LEFT_OUT_OF_FINAL = ("error", "identity_json", "data_read")
"""Columns of `runs` that the view `final` does not have."""
_FINAL = (
    "A view for people: one row per run, its newest attempt, in the one file `results/final/final.parquet`. It is written again "
    "when a study ends, from `runs` and `metrics`, and pruneyard never reads it: while a study runs it may be older than these."
)


@cache
def schema(table: str) -> pa.Schema:
    """Returns the Arrow schema of a table; each field has its description as metadata."""
    columns = [column for record in TABLES[table] for column in _columns(record)]
    return pa.schema(columns, metadata={VERSION_KEY: str(SCHEMA_VERSION).encode(), b"table": table.encode()})


def _columns(record: type[Any]) -> list[pa.Field]:
    hints = get_type_hints(record, include_extras=True)
    return [_column(field.name, hints[field.name]) for field in fields(record)]


def _column(name: str, annotated: Any) -> pa.Field:
    kind, column = get_args(annotated)
    # Optional[X] and X | None have different origins.
    nullable = get_origin(kind) in (Union, types.UnionType)
    return pa.field(name, column.type, nullable, metadata={b"description": column.description.encode()})


def schema_markdown() -> str:
    """Returns the Markdown documentation of all tables, generated from the schemas."""
    parts = [f"Schema version {SCHEMA_VERSION}. Times are UTC; fractions lie in [0, 1].\n"]
    for table, records in TABLES.items():
        parts.append(f"## {table}\n\n{inspect.cleandoc(records[-1].__doc__ or '')}\n")
        parts.append("| column | type | null | meaning |\n|---|---|---|---|")
        parts.extend(_markdown_row(field) for field in schema(table))
        parts.append("")
    parts.append(f"## final\n\n{_FINAL}\n")
    parts.append("| column | type | null | meaning |\n|---|---|---|---|")
    parts.extend(_markdown_row(field) for field in schema("runs") if field.name not in LEFT_OUT_OF_FINAL)
    parts.append("| a dotted spec key | bool, double or string | yes | a setting in which runs differ; string for mixed values |")
    parts.append("| `split/name` | double | yes | a metric at its last step, such as `test/accuracy` |")
    parts.append("")
    return "\n".join(parts)


def _markdown_row(field: pa.Field) -> str:
    kind = "string" if pa.types.is_dictionary(field.type) else str(field.type)
    description = field.metadata[b"description"].decode()
    return f"| `{field.name}` | {kind} | {'yes' if field.nullable else 'no'} | {description} |"
