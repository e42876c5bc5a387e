"""Which runs repeat one another: the same but for the seed in whatever may change a number, on the same geometry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

LABELS = ("data", "model", "method", "density", "ipc")
GEOMETRY = ("kind", "stage", "num_workers", "device")
_NO_IDENTITY = ("seed", "seeds", "name", "resources")
_RUNS = "runs."  # in a dotted key: what follows describes the earlier run that a job rests on
_SAID_BY_LABELS = frozenset(
    {"kind", "data.name", "model.name", "method.name", "method.density", "method.ipc", "data.ipc"}
)


def label_cells(runs: pa.Table) -> pd.DataFrame:
    """The runs with a column `cell` (0, 1, ...), equal for repetitions, and one per setting that differs.

    Runs without an `identity_json` are told apart by their whole spec. Settings are named by their dotted key
    in it and listed in `frame.attrs["settings"]`. Of two runs of
    one cell and seed on the same earlier run (made by different versions, say) the one that ended last is kept.

    A column `outer` names what repeats independently: of runs that rest on others, the first run of their lineage.
    """
    frame = runs.to_pandas()
    frame["outer"] = _outer(frame)
    texts = frame["identity_json"].where(frame["identity_json"].notna(), frame["spec_json"])
    frame["_spec"] = pd.Series([flat_spec(text) for text in texts], dtype=object)
    identity = pd.Series([_canonical(spec) for spec in frame["_spec"]], dtype=object)
    frame["cell"] = _codes([frame[name] for name in GEOMETRY] + [identity])
    by_end: pd.DataFrame = frame.sort_values("ended_at", kind="stable")
    frame = by_end.drop_duplicates(["cell", "seed", "parent_key"], keep="last").sort_index().reset_index(drop=True)
    settings = _settings(frame.drop_duplicates("cell").reset_index(drop=True))
    for key in settings:
        frame[key] = pd.Series(_shown([spec.get(key) for spec in frame["_spec"]]), dtype=object)
    frame = frame.drop(columns="_spec")
    frame.attrs["settings"] = settings
    return frame


def _outer(frame: pd.DataFrame) -> list[str]:
    """Of every run the keys of the runs that its lineage starts from, those of other folders included."""
    parents: dict[str, str] = {
        key: parent for key, parent in zip(frame["run_key"], frame["parent_key"], strict=True) if isinstance(parent, str)
    }
    found: dict[str, frozenset[str]] = {}

    def roots(key: str) -> frozenset[str]:
        if key not in found:
            found[key] = frozenset({key})  # a lineage that bites its tail ends here
            if key in parents:
                found[key] = frozenset(root for parent in parents[key].split(",") for root in roots(parent))
        return found[key]

    return [",".join(sorted(roots(key))) for key in frame["run_key"]]


def _is_said_by_labels(key: str) -> bool:
    """Also where it describes an earlier run, whose columns a job takes over; but the method is the job's own."""
    described = key.rpartition(_RUNS)[2]
    return key in _SAID_BY_LABELS or (_RUNS in key and described != "method.name" and described in _SAID_BY_LABELS)


def flat_spec(text: str) -> dict[str, Any]:
    """Every value of a spec by its dotted key, without what does not tell cells apart."""
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
    """Keys that differ among the cells that have them, then whatever else is needed to tell all cells apart.

    A key that only one method has, with one value, says nothing beyond the method's name and is left out.
    """
    specs: list[dict[str, Any]] = list(cells["_spec"])
    keys = [key for key in dict.fromkeys(key for spec in specs for key in spec) if not _is_said_by_labels(key)]
    tables = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    # table by table, and in each its name first: `optimizer`, then its `lr`
    keys.sort(key=lambda key: (tables.index(key.partition(".")[0]), not key.endswith(".name")))
    values = {key: [_canonical(spec[key]) if key in spec else None for spec in specs] for key in keys}
    chosen = [key for key in keys if len(set(values[key]) - {None}) > 1]
    told = _codes(
        [cells[name] for name in LABELS + GEOMETRY] + [pd.Series(values[key], dtype=object) for key in chosen]
    )
    for key in keys:
        finer = _codes([told, pd.Series(values[key], dtype=object)])
        if finer.nunique() > told.nunique():
            told = finer
            chosen.append(key)
    return chosen


def _codes(columns: Sequence[pd.Series[Any]]) -> pd.Series[int]:
    """Numbers 0, 1, ... for equal rows, in order of appearance; nulls equal one another."""
    frame = pd.concat([column.rename(number) for number, column in enumerate(columns)], axis=1)
    return frame.groupby(list(frame.columns), sort=False, dropna=False).ngroup()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _shown(values: Sequence[Any]) -> list[str | float | int | bool | None]:
    """Plain values as they are, tables as JSON; lists of plug-ins by their names where these tell them apart."""
    named = [_names(value) for value in values]
    told_apart = len({_canonical(value) for value in named}) == len({_canonical(value) for value in values})
    shown = named if told_apart else values
    return [value if isinstance(value, str | float | int | bool | None) else _canonical(value) for value in shown]


def _names(value: Any) -> Any:
    """`aps, raps` of a list of such plug-ins, `none` of an empty list; anything else as it is."""
    if not isinstance(value, list) or not all(isinstance(item, dict) and "name" in item for item in value):
        return value
    return ", ".join(str(item["name"]) for item in value) or "none"
