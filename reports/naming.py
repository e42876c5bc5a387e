"""Short column names for dotted spec keys: the last part of the key, prefixed with the input run that it describes."""

from collections import Counter
from collections.abc import Collection, Sequence

from pruneyard.reports.renamed_keys import present_key

RUNS = ".runs."
"""Separator in a dotted key; the part after it describes the earlier run that the job takes as input."""


def column_names(keys: Sequence[str], *, taken: Collection[str] = ()) -> dict[str, str]:
    """Returns a short name for every dotted key, or the key itself if the short name is ambiguous or in `taken`.

    Renamed keys have their present names.

    `method.schedule.every` becomes `every`, `optimizer.name` becomes `optimizer`, `input.runs.objective.name` becomes
    `input's objective`, and `data.runs.method.name` becomes `data's method`, or `input's data's method` for a job's input.
    """
    present = {key: present_key(key) for key in keys}
    shortest = {key: _joined(key, _last(_own(present[key]))) for key in keys}
    longer = {key: _joined(key, _own(present[key])) for key in keys}
    once = Counter([*shortest.values(), *taken])
    twice = Counter(longer.values())
    return {
        key: shortest[key] if once[shortest[key]] == 1 else longer[key] if twice[longer[key]] == 1 else present[key]
        for key in keys
    }


def _own(key: str) -> str:
    """Returns the part of the key that is a key in the spec of the job or of the run that it describes."""
    return key.rpartition(RUNS)[2]


def _last(own: str) -> str:
    """Returns the last part of a key, without `.name`."""
    return own.removesuffix(".name").rpartition(".")[2]


def _joined(key: str, name: str) -> str:
    """Returns `input's method` for the run that a job takes as input, `data's method` for the run that created its data."""
    places = [place.rpartition(".")[2] for place in key.split(RUNS)[:-1]]
    return " ".join([*(f"{place}'s" for place in places), name])
