"""How the columns of a table are called: by the last part of a dotted key, with `of` for what a job took from an earlier run."""

from collections import Counter
from collections.abc import Collection, Sequence

RUNS = ".runs."
"""In a dotted key: what follows describes the earlier run that a job rests on."""
_DIRECT = "input"


def column_names(keys: Sequence[str], *, taken: Collection[str] = ()) -> dict[str, str]:
    """A short name for every dotted key, or the key itself where another one, or one of `taken`, is called so.

    `method.schedule.every` is `every`, `optimizer.name` is `optimizer`, `input.runs.objective.name` is `of objective`,
    `data.runs.method.name` is `data's method`, and that of a job's input is `of data's method`.
    """
    shortest = {key: _joined(key, _last(_own(key))) for key in keys}
    longer = {key: _joined(key, _own(key)) for key in keys}
    once = Counter([*shortest.values(), *taken])
    twice = Counter(longer.values())
    return {
        key: shortest[key] if once[shortest[key]] == 1 else longer[key] if twice[longer[key]] == 1 else key
        for key in keys
    }


def _own(key: str) -> str:
    """The part of the key that the job, or the run it describes, has in its own spec."""
    return key.rpartition(RUNS)[2]


def _last(own: str) -> str:
    return own.removesuffix(".name").rpartition(".")[2]


def _joined(key: str, name: str) -> str:
    """`of method` for the run that a job takes as its input, `data's method` for the one that made its data."""
    places = [place.rpartition(".")[2] for place in key.split(RUNS)[:-1]]
    return " ".join([*("of" if place == _DIRECT else f"{place}'s" for place in places), name])
