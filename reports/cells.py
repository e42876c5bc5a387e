"""Groups runs into cells: replicates that differ only in the seed, with equal spec, workers and device, unless pooled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from pruneyard.reports.data_record import content_of, data_records
from pruneyard.reports.pooling import NOTHING, Pooled, repetitions
from pruneyard.reports.records import Status

LABELS = ("data", "model", "method", "density", "ipc")
GEOMETRY = ("kind", "stage", "num_workers", "device")
_NO_IDENTITY = ("seed", "seeds", "name", "resources")
FINGERPRINT = ".fingerprint"
"""The end of a setting that tells apart runs of one spec on different data, such as `data.fingerprint`."""
_SOURCE = "source_code"  # ends the key of the digest of a plug-in, which says less than its name
_RUNS = "runs."  # in a dotted key, the part after it describes the input run of the job
_LABEL_OF = {
    "kind": "kind",
    "data.name": "data",
    "model.name": "model",
    "method.name": "method",
    "method.density": "density",
    "method.ipc": "ipc",
    "data.ipc": "ipc",
    "input.model": "model",
}
"""The columns that show these spec keys."""
_OF_FILES = ("input.digest", "input.columns.", "input.splits.")  # of files of outputs, which the names of their models tell apart


def label_cells(runs: pa.Table, *, every_run: bool = False, pooled: Pooled = NOTHING) -> pd.DataFrame:
    """Returns the runs with a column `cell` (0, 1, ...), equal for replicates, and a column per setting that differs.

    Runs on different data are no replicates: their cells differ in settings such as `data.fingerprint`.

    Runs without an `identity_json` are distinguished by their whole spec. Setting columns are named by dotted spec keys and
    listed in `frame.attrs["settings"]`. Of two runs with equal cell, seed and input run (such as runs of different versions)
    the one that finished last is kept, a failed or interrupted one only if no other is there; with `every_run` all are.

    Column `outer` identifies independent replicates: for runs with input runs, the first run of their lineage; `outer_seed` is
    the seed of that run (see `_outer_seeds`). Column
    `repetition` is the run's key, or one key for all runs that differ only in what is pooled; `pooled` has their values of it.
    """
    frame: pd.DataFrame = runs.to_pandas()
    texts = frame["identity_json"].where(frame["identity_json"].notna(), frame["spec_json"])
    whole = [flat_spec(text) for text in texts]
    specs = [pooled.without(spec) for spec in whole]
    exact = _codes([*(frame[name] for name in GEOMETRY), _as_column(whole)])
    alike = _codes([*(frame[name] for name in GEOMETRY if name not in pooled.columns), _as_column(specs)])
    contents = _differing_data(runs, alike)
    frame["_spec"] = pd.Series([{**spec, **content} for spec, content in zip(specs, contents, strict=True)], dtype=object)
    frame["cell"] = _codes([alike, _as_column(contents)])
    frame["pooled"] = [pooled.words(spec, row) for spec, row in zip(whole, frame[list(GEOMETRY)].to_dict("records"), strict=True)]
    same = repetitions(frame) if pooled else {}
    frame["repetition"] = [same.get(key, key) for key in frame["run_key"]]
    frame["outer"] = _outer(frame, same)
    frame["outer_seed"] = _outer_seeds(frame)
    if not every_run:
        # Sorted by end only to choose among duplicates; `sort_index` restores the order of the runs.
        final = [Status(status).is_final for status in frame["status"]]
        by_end: pd.DataFrame = frame.assign(_exact=exact, _final=final).sort_values(["_final", "ended_at"], kind="stable")
        unique = by_end.drop_duplicates(["cell", "_exact", "seed", "parent_key"], keep="last")
        frame = unique.drop(columns=["_exact", "_final"]).sort_index().reset_index(drop=True)
    settings = _settings(frame.drop_duplicates("cell").reset_index(drop=True))
    for key in settings:
        # dtype object: with a missing value pandas would turn integers and booleans into floats.
        frame[key] = pd.Series(_shown([spec.get(key) for spec in frame["_spec"]]), dtype=object)
    frame = frame.drop(columns="_spec")
    frame.attrs["settings"] = settings
    return frame


def _differing_data(runs: pa.Table, alike: pd.Series[int]) -> list[dict[str, str | None]]:
    """Returns for every run the hashes of its data, such as `data.fingerprint`, as far as runs of equal `alike` differ in them.

    A run whose data is not known counts as one on the same data, unless the others differ.
    """
    records = data_records(*(runs.column(name).to_pylist() for name in ("data_read", "data_fingerprint", "parent_key")))
    contents = [content_of(record) for record in records]
    known: dict[tuple[int, str], set[str]] = {}
    for group, content in zip(alike, contents, strict=True):
        for key, value in content.items():
            known.setdefault((group, key), set()).add(value)
    differing: dict[int, list[str]] = {}
    for (group, key), values in known.items():
        if len(values) > 1:
            differing.setdefault(group, []).append(key)
    return [
        {f"{key}{FINGERPRINT}": content.get(key) for key in differing.get(group, ())}
        for group, content in zip(alike, contents, strict=True)
    ]


def _outer(frame: pd.DataFrame, same: Mapping[str, str]) -> list[str]:
    """Returns for every run the keys of the first runs of its lineage, which may be in other folders.

    Runs on a file of outputs rest on that file: other seeds are no other networks. same: the key that stands for a run where
    several count as one.
    """
    parents: dict[str, str] = {
        key: parent for key, parent in zip(frame["run_key"], frame["parent_key"], strict=True) if isinstance(parent, str)
    }
    found: dict[str, frozenset[str]] = {}

    def roots(key: str) -> frozenset[str]:
        if key not in found:
            found[key] = frozenset({same.get(key, key)})  # ends the recursion in a cyclic lineage
            if key in parents:
                found[key] = frozenset(root for parent in parents[key].split(",") for root in roots(parent))
        return found[key]

    of_files = _digests_of_files(frame)
    return [of_files.get(key) or ",".join(sorted(roots(key))) for key in frame["run_key"]]


def _outer_seeds(frame: pd.DataFrame) -> pd.Series[Any]:
    """Returns for every run the seed of the first run of its lineage, by which settings without a common first run are paired.

    It is the run's own seed where there are several first runs, or where the first run is unknown, as long as all runs of the
    cell that rest on it have that seed. Else it is the key of the first runs, so that the run has no partner: runs on one first
    run are not independent.
    """
    seeds = dict(zip(frame["run_key"], frame["seed"], strict=True))
    num_seeds = frame.groupby(["cell", "outer"])["seed"].transform("nunique")
    found = [
        seeds.get(outer, own if num == 1 else outer)
        for outer, own, num in zip(frame["outer"], frame["seed"], num_seeds, strict=True)
    ]
    mixed = any(isinstance(seed, str) for seed in found)
    return pd.Series([str(seed) for seed in found] if mixed else found, index=frame.index, dtype=object if mixed else "int64")


def pairing(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """Returns the column by which the runs of two cells are paired: `outer` where they share a first run, else `outer_seed`."""
    return "outer" if set(one["outer"]) & set(other["outer"]) else "outer_seed"


def _digests_of_files(frame: pd.DataFrame) -> dict[str, str]:
    """Returns the digest of the file of outputs that a calibrate run read, by run key."""
    texts = frame.loc[frame["kind"] == "calibrate", ["run_key", "spec_json"]]
    inputs = {key: json.loads(text).get("input") for key, text in texts.itertuples(index=False)}
    return {key: table["digest"] for key, table in inputs.items() if isinstance(table, dict) and table.get("digest")}


def is_label(key: str) -> bool:
    """Returns whether a label column shows this key. A job shares the labels of its input run, except for the method."""
    # The whole key if no input run is in it.
    described = key.rpartition(_RUNS)[2]
    return key in _LABEL_OF or (_RUNS in key and described != "method.name" and described in _LABEL_OF)


def column_of(key: str) -> str:
    """Returns the column of the summary that shows a dotted spec key, such as `density` for `method.density`."""
    return _LABEL_OF.get(key, key)


def is_detail(key: str) -> bool:
    """Returns whether a key says nothing to people where labels tell the cells apart."""
    return key.endswith(_SOURCE) or key.startswith(_OF_FILES)


def flat_spec(text: str) -> dict[str, Any]:
    """Returns every value of a spec by its dotted key, without keys that do not distinguish cells."""
    spec = json.loads(text)
    if not isinstance(spec, dict):
        raise ValueError(f"the spec of a run is {text[:80]!r}; it must be a JSON object")
    return dict(_flat({key: value for key, value in spec.items() if key not in _NO_IDENTITY}, ""))


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _settings(cells: pd.DataFrame) -> list[str]:
    """Returns the keys that differ among the cells that have them, then further keys needed to distinguish all cells.

    A key that only one method has, with one value, adds nothing to the method's name and is left out.
    """
    specs: list[dict[str, Any]] = list(cells["_spec"])
    keys = [key for key in dict.fromkeys(key for spec in specs for key in spec) if not is_label(key)]
    tables = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    # table by table, and in each its name first: `optimizer`, then its `lr`
    keys.sort(key=lambda key: (tables.index(key.partition(".")[0]), not key.endswith(".name")))
    values = {key: [_canonical(spec[key]) if key in spec else None for spec in specs] for key in keys}
    chosen = [key for key in keys if len(set(values[key]) - {None}) > 1 and not is_detail(key)]
    columns = [cells[name] for name in LABELS + GEOMETRY] + [pd.Series(values[key], dtype=object) for key in chosen]
    groups: list[Any] = _codes(columns).tolist()
    # Keys with one value, or that only some cells have, are added as far as cells would look alike without them.
    for key in keys:
        finer = list(zip(groups, values[key], strict=True))
        if len(set(finer)) > len(set(groups)):
            groups = finer
            chosen.append(key)
    return chosen


def _codes(columns: Sequence[pd.Series[Any]]) -> pd.Series[int]:
    """Returns group numbers 0, 1, ... of equal rows, in order of appearance; nulls are equal."""
    # Numbered, since columns may share a name.
    frame = pd.concat([column.rename(number) for number, column in enumerate(columns)], axis=1)
    return frame.groupby(list(frame.columns), sort=False, dropna=False).ngroup()


def _as_column(values: Sequence[Any]) -> pd.Series[Any]:
    return pd.Series([_canonical(value) for value in values], dtype=object)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _shown(values: Sequence[Any]) -> list[str | float | int | bool | None]:
    """Returns display values: scalars unchanged, tables as JSON, lists of plug-ins by name if the names are distinctive."""
    named = [_names(value) for value in values]
    told_apart = len({_canonical(value) for value in named}) == len({_canonical(value) for value in values})
    shown = named if told_apart else values
    return [value if isinstance(value, str | float | int | bool | None) else _canonical(value) for value in shown]


def _names(value: Any) -> Any:
    """Returns `aps, raps` for a list of plug-in tables and `none` for an empty list; other values unchanged."""
    if not isinstance(value, list) or not all(isinstance(item, dict) and "name" in item for item in value):
        return value
    return ", ".join(str(item["name"]) for item in value) or "none"
