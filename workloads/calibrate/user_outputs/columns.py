"""Finds the columns of a file by their role: logits or probabilities, labels, splits, models; by usual or given names."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from pruneyard.workloads.calibrate.user_outputs.table import Table
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT

USUAL = {
    "logits": ("logits", "logit_"),
    "probabilities": ("probabilities", "prob_"),
    "label": ("label", "labels"),
    "split": ("split",),
    "model": ("model",),
    "row_id": ("row_id",),
}
"""The names that are looked for, in this order; those that end in `_` begin the names of one column per class."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of a file's columns where they are not the usual ones.

    logits, probabilities: one of the two, which declares what the numbers are. A column of lists or an array (N, C); one column
        of scores of a binary problem; or the beginning of the names of one column per class, as `z` for z0, z1, ... or
        `p_` for p_cat, p_dog.
    label: class numbers 0, 1, ..., or class names where the names of the columns end in them.
    split, model, row_id: may be missing in the file.
    """

    logits: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    probabilities: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    label: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    split: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    model: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)
    row_id: str = field(default="", metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        if self.logits and self.probabilities:
            given = f"probabilities is {self.probabilities!r} and logits is {self.logits!r}"
            raise ValueError(f"{given}; the outputs are either, so leave one of them out")


@dataclass(frozen=True, kw_only=True)
class FoundValues:
    """The columns with outputs of one kind, `logits` or `probabilities`. classes: class names, if the columns' names end so."""

    kind: str
    names: tuple[str, ...]
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.names[0] if len(self.names) == 1 else f"{self.names[0]} ... {self.names[-1]}"


def find_values(table: Table, columns: Columns) -> FoundValues:
    """Returns the columns with logits or probabilities. Raises `ValueError` where there are none, or both without a choice."""
    given = {kind: name for kind in ("logits", "probabilities") if (name := getattr(columns, kind))}
    for kind, name in given.items():
        found = _values_named(table, kind, name)
        if found is None:
            raise ValueError(_absent(table, kind, name))
        return found
    usual = [_values_named(table, kind, name) for kind in ("logits", "probabilities") for name in USUAL[kind]]
    present = {found.kind: found for found in usual if found is not None}
    if len(present) > 1:
        both = " and ".join(f"{kind} ({found})" for kind, found in present.items())
        raise ValueError(f"{table.place}: holds {both}; choose one by columns.logits or columns.probabilities")
    if not present:
        expected = "logits, logit_0 ..., probabilities or prob_0 ..."
        how = "name the column, or the beginning of several, by columns.logits or columns.probabilities"
        raise ValueError(f"{table.place}: holds neither logits nor probabilities ({expected}), only {_listed(table)}; {how}")
    return next(iter(present.values()))


def find_label(table: Table, columns: Columns) -> str:
    """Returns the name of the column of labels. Raises `ValueError` if it is missing."""
    found = find_column(table, columns, "label")
    if found is None:
        raise ValueError(f"{table.place}: has no column label, only {_listed(table)}; name it by columns.label")
    return found


def find_column(table: Table, columns: Columns, role: str) -> str | None:
    """Returns the name of the column with a role; None if there is none. Raises `ValueError` if a given name is missing."""
    given = getattr(columns, role)
    if given and given not in table.names:
        raise ValueError(_absent(table, role, given))
    return given or next((name for name in USUAL[role] if name in table.names), None)


def _values_named(table: Table, kind: str, name: str) -> FoundValues | None:
    if name in table.names:
        return FoundValues(kind=kind, names=(name,))
    endings = [column.removeprefix(name) for column in table.names if column.startswith(name) and column != name]
    if not endings:
        return None
    named = [ending for ending in endings if not ending.isdecimal()]
    if named and len(named) < len(endings):
        mixed = f"{name}{named[0]} and {name}{next(ending for ending in endings if ending.isdecimal())}"
        raise ValueError(f"{table.place}: holds {mixed}; the columns of {kind} must end in class numbers or in class names")
    if named:
        return FoundValues(kind=kind, names=tuple(name + ending for ending in endings), classes=tuple(endings))
    numbers = sorted(endings, key=int)
    missing = next((place for place, ending in enumerate(numbers) if int(ending) != place), None)
    if missing is not None:
        held = f"{name}{numbers[0]} to {name}{numbers[-1]}"
        raise ValueError(f"{table.place}: holds {held}, but no column {name}{missing}; classes are 0, 1, ... without gaps")
    return FoundValues(kind=kind, names=tuple(name + ending for ending in numbers))


def _absent(table: Table, role: str, name: str) -> str:
    close = difflib.get_close_matches(name, table.names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{table.place}: columns.{role} is {name!r}, but the file holds {_listed(table)}{hint}"


def _listed(table: Table, *, most: int = 12) -> str:
    names: Sequence[str] = table.names
    if not names:
        return "no columns"
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


