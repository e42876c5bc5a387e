"""Rows pooled on request: settings in which runs may differ and still count as one setting, such as batch size."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pandas as pd

from pruneyard.reports.renamed_keys import present_key

POOLED_COLUMNS = ("num_workers", "device")
"""What may be pooled beside the keys of specs."""
_MAX_VALUES = 8  # combinations that the sentence about pooling lists
_RUNS = "runs."  # in a dotted key, the part after it describes the input run of the job


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The dotted keys of specs and the columns of runs that do not tell settings apart; `names` are those that were asked for."""

    names: tuple[str, ...] = ()
    keys: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()

    @classmethod
    def named(cls, names: Collection[str], known: Collection[str], *, labels: Collection[str]) -> Pooled:
        """Returns what these names stand for: `num_workers`, `device`, a dotted key of a spec, or its end, such as `batch_size`.

        A key is pooled in input runs too. known: the dotted keys of all specs. labels: those that name a row, which are refused.
        Raises `ValueError` for a name that no key has, that several have, or of a label.
        """
        keys: set[str] = set()
        own = {key: present_key(key).rpartition(_RUNS)[2] for key in known}
        for name in names:
            found = {end for end in own.values() if end == name or end.endswith(f".{name}")}
            if name in POOLED_COLUMNS:
                continue
            if not found:
                ends = [*POOLED_COLUMNS, *sorted({end.rpartition(".")[2] for end in own.values()} - {"name"})]
                near = get_close_matches(name, ends, n=3)
                raise ValueError(f"pool {name!r}: no run has this setting; {_known(near, ends)}")
            if len(found) > 1:
                raise ValueError(f"pool {name!r}: may be {' or '.join(sorted(found))}; give one of them")
            if found & set(labels):
                raise ValueError(f"pool {name!r}: names the rows of the summary, so runs that differ in it are never averaged")
            keys.update(key for key, end in own.items() if end in found)
        return cls(names=tuple(dict.fromkeys(names)), keys=frozenset(keys), columns=frozenset(names) & frozenset(POOLED_COLUMNS))

    def __bool__(self) -> bool:
        return bool(self.names)

    def without(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a flat spec without the pooled keys."""
        return {key: value for key, value in spec.items() if key not in self.keys}

    def words(self, spec: Mapping[str, Any], columns: Mapping[Any, Any]) -> str:
        """Returns the pooled values of one run, such as `batch_size 64`."""
        own = [f"{key.rpartition('.')[2]} {spec[key]}" for key in sorted(self.keys) if key in spec]
        return ", ".join([*own, *(f"{name} {columns[name]}" for name in sorted(self.columns))])


NOTHING = Pooled()


def _known(near: Sequence[str], names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(near)}?" if near else f"it must be one of {', '.join(names)}"


def repetitions(frame: pd.DataFrame) -> dict[str, str]:
    """Returns for every run the key of the first run of equal seed and inputs that differs from it only in what is pooled.

    frame: columns `run_key, cell, seed, parent_key`.
    """
    rows = dict(zip(frame["run_key"], frame.itertuples(), strict=True))
    first: dict[tuple[Any, ...], str] = {}
    found: dict[str, str] = {}

    def standing_for(key: str) -> str:
        if key not in found and key in rows:
            found[key] = key  # ends the recursion in a cyclic lineage
            row = rows[key]
            parents = row.parent_key.split(",") if isinstance(row.parent_key, str) else []
            inputs = tuple(sorted({standing_for(parent) for parent in parents}))
            found[key] = first.setdefault((row.cell, row.seed, inputs), key)
        return found.get(key, key)

    return {key: standing_for(key) for key in rows}


def note(pooled: Pooled, labelled: pd.DataFrame) -> str:
    """Returns what was pooled, as a sentence for the page. labelled: see `cells.label_cells`."""
    values = sorted({text for text in labelled["pooled"] if text})
    which = "; ".join(values[:_MAX_VALUES]) + ("; and others" if len(values) > _MAX_VALUES else "")
    return (
        f"Pooled over {', '.join(pooled.names)} ({which}): runs that differ only in it count as one setting, and those of one "
        "seed as one repetition, by their mean. A comparison takes the mean over those values that both sides have for the seed; "
        "where they share none, over those that each has."
    )

