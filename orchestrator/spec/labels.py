"""Short names of jobs for people: what every reader looks for, and what else tells the jobs of one population apart."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ALWAYS = ("model.name", "method.name", "method.density")
FIRST = ("gradient.name", "optimizer.name", "optimizer.lr")


def labels(identities: Sequence[Mapping[str, Any]]) -> list[str]:
    """One for each job: model, method, density where there is one, what else differs, seed. No two are the same.

    `identities` are the jobs' tables, all different. Of those that share model, method, density and seed, settings that
    split them are added until none is left: names first, then the learning rate, then as they come.
    """
    flat = [dict(_flatten(identity)) for identity in identities]
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, leaves in enumerate(flat):
        groups[tuple(str(leaves.get(key)) for key in (*ALWAYS, "seed"))].append(index)
    added: dict[int, list[str]] = {}
    for group in groups.values():
        chosen = _distinguishing_keys([flat[index] for index in group])
        added.update(dict.fromkeys(group, chosen))
    short = _short_names({key for keys in added.values() for key in keys})
    return [_label(leaves, added[index], short) for index, leaves in enumerate(flat)]


def _label(leaves: Mapping[str, Any], added: Sequence[str], short: Mapping[str, str]) -> str:
    words = [_word(leaves[key], "density" if key == "method.density" else "") for key in ALWAYS if key in leaves]
    words += [_word(leaves[key], short[key]) for key in added if key in leaves]
    return " ".join([*words, _word(leaves["seed"], "seed")])


def _word(value: Any, name: str) -> str:
    text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value).replace(" ", "")
    return f"{name}={text}" if name else text


def _distinguishing_keys(group: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that split the group, as few as a single pass in order of interest finds."""
    keys = dict.fromkeys(key for leaves in group for key in leaves)
    ordered = sorted(keys, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), not key.endswith(".name")))
    told: list[tuple[str, ...]] = [()] * len(group)
    chosen = []
    for key in ordered:
        if len(set(told)) == len(group):
            break
        finer = [(*known, str(leaves.get(key))) for known, leaves in zip(told, group, strict=True)]
        if len(set(finer)) > len(set(told)):
            told = finer
            chosen.append(key)
    return chosen


def _short_names(keys: set[str]) -> dict[str, str]:
    """What each key is called: nothing for a name, which speaks for itself, else its last part where no other ends so."""
    lasts = [key.rpartition(".")[2] for key in keys]

    def ending(key: str) -> str:
        last = key.rpartition(".")[2]
        return "" if last == "name" else last if lasts.count(last) == 1 else key

    return {key: ending(key) for key in keys}


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
