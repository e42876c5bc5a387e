"""Builds short labels of jobs for people: model, method, density, and the settings that distinguish jobs of a population."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ALWAYS = ("model.name", "method.name", "method.density")  # parts of every label
FIRST = ("gradient.name", "optimizer.name", "optimizer.lr")  # added before all other settings


def labels(identities: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a unique label for each job: model, method, density if any, settings that differ, seed.

    For jobs with equal model, method, density and seed, distinguishing settings are added until all labels differ: names first,
    then the learning rate, then in order of appearance.

    identities: the jobs' tables, all different.
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
    # `:g` keeps six digits, so it is used only where it loses none.
    text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value).replace(" ", "")
    return f"{name}={text}" if name else text


def _distinguishing_keys(group: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns keys that distinguish the jobs of a group: those that a single greedy pass in order of interest finds."""
    keys = dict.fromkeys(key for leaves in group for key in leaves)
    ordered = sorted(keys, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), not key.endswith(".name")))
    values: list[tuple[str, ...]] = [()] * len(group)
    chosen = []
    for key in ordered:
        if len(set(values)) == len(group):
            break
        finer = [(*known, str(leaves.get(key))) for known, leaves in zip(values, group, strict=True)]
        if len(set(finer)) > len(set(values)):
            values = finer
            chosen.append(key)
    return chosen


def _short_names(keys: set[str]) -> dict[str, str]:
    """Returns a short name for each key: empty for a `name`, else its last part if unique, else the whole key."""
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
