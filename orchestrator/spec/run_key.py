"""Computes run keys: a short hash of everything that can change the numbers of a job, and nothing else."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from pruneyard.orchestrator.spec.codec import encode
from pruneyard.workloads.user_code.identity import SOURCE

IDENTITY_VERSION = 1  # raised when the same spec gives different numbers than before


def run_key(kind: str, workload: object) -> str:
    """Returns the run key of a workload, 16 hexadecimal digits. Names, resources, paths and intervals do not enter."""
    return key_of(kind, encode(workload, identity_only=True))


def key_of(kind: str, identity: Mapping[str, Any]) -> str:
    """Returns the run key of a job with this encoded identity."""
    job = {"version": IDENTITY_VERSION, "kind": kind, "job": identity}
    # 64 bits: two of 100,000 jobs, the most in one study, share a key with a probability below 1e-9.
    return hashlib.sha256(canonical(job).encode()).hexdigest()[:16]


def check_source(kind: str, workload: object, identity: Mapping[str, Any], key: str) -> None:
    """Raises `ValueError` if plug-ins of third parties have another source in this process than where the job was planned."""
    if has_source(identity) and (here := run_key(kind, workload)) != key:
        raise ValueError(
            f"the source of a plug-in differs from that of the process that planned this job (run key {here} here, {key} there); "
            "install the same source on every node, and change it only when no study runs"
        )


def has_source(value: Any) -> bool:
    """Returns whether an encoded identity covers the source of code of third parties."""
    if isinstance(value, Mapping):
        return SOURCE in value or any(has_source(item) for item in value.values())
    return isinstance(value, list) and any(has_source(item) for item in value)


def canonical(value: Any) -> str:
    """Returns one text for each value: JSON with sorted keys and no spaces. Raises for values without a stable form."""
    return json.dumps(_stable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _stable(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no stable form in a run key; give a finite number")
        return value + 0.0  # -0.0 is 0.0
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _stable(item) for key, item in value.items()}
    raise ValueError(f"{type(value).__name__} has no stable form in a run key; give plain data")


class _NotSet:
    """The value of a key that a job does not have: a field of another plug-in, or a field left at its default."""

    def __repr__(self) -> str:
        return "not set"


NOT_SET = _NotSet()


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields dotted key, old and new value of every leaf that differs between two encoded jobs; `NOT_SET` for a missing value."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from differences(old.get(name, NOT_SET), new.get(name, NOT_SET), f"{key}.{name}" if key else name)
    elif _are_tables(old) and _are_tables(new):
        for place, (before, after) in enumerate(zip_longest(old, new, fillvalue=NOT_SET)):
            yield from differences(before, after, f"{key}[{place}]")
    elif old != new:
        yield key, old, new


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
