"""Checks names of metrics against those that runs recorded, and finds their direction."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.direction import COSTS, Direction, known_direction

DIRECTIONS: tuple[Direction, ...] = ("max", "min")


def recorded_measures(metrics: pa.Table) -> list[str]:
    """Returns every `split/name` that a run recorded."""
    recorded = metrics.select(["split", "name"]).to_pandas().drop_duplicates()
    return [f"{split}/{name}" for split, name in recorded.itertuples(index=False)]


def check_recorded(names: Iterable[str], *, measures: Collection[str]) -> None:
    """Raises `UsageError` for a name that is neither a recorded measure nor a cost."""
    for name in names:
        if name not in COSTS and name not in measures:
            raise UsageError(
                f"{name}: no run has it; it must be a recorded metric (split/name) or one of {', '.join(COSTS)}"
                + did_you_mean(name, [*measures, *COSTS])
            )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a hint at the nearest known name, or an empty text."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def directions_of(objectives: Mapping[str, str] | Sequence[str]) -> dict[str, Direction]:
    """Returns the direction of each objective. Raises `UsageError` for one that is not known and for words but max and min."""
    if not isinstance(objectives, Mapping):
        return {name: direction_of(name) for name in objectives}
    return {name: direction_of(name, word) for name, word in objectives.items()}


def direction_of(name: str, word: str | None = None) -> Direction:
    """Returns the direction that a word means, or the known one of the measure without a word."""
    if word is not None:
        chosen = next((each for each in DIRECTIONS if each == word), None)
        if chosen is None:
            raise UsageError(f"{name}: is {word!r}; it must be max or min")
        return chosen
    known = known_direction(name)
    if known is None:
        raise UsageError(f"{name}: it is not known whether larger is better; give the direction, max or min")
    return known
