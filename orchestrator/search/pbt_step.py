"""Population based training, on plain numbers: from how the members of each generation did to the members of the next one.

Members at the bottom are replaced by copies of some at the top, whose settings are then changed a little; all others go on
as they are. Every draw is a function of the search's seed, the generation and the member.

Reference: M. Jaderberg et al., "Population Based Training of Neural Networks", arXiv:1711.09846, 2017 (truncation selection).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneyard.orchestrator.search.pb2 import Bandit
from pruneyard.orchestrator.spec.search import Choices, Range, Search, stream

SMALLER, LARGER = 0.8, 1.2  # the factors of the paper


ATTEMPTS = 20  # at a member that is like no other: two that are alike would be one run


PLACES = -1, 1  # of a choice: to the one before it or behind it


@dataclass(frozen=True, kw_only=True)
class Member:
    """at: for each key of the space a number of its range, or the number of a choice.

    parent: the member of the generation before whose training goes on; None in the first one.
    cost: at the generation's end, less is better; None where a run of it failed, or none has ended.
    """

    at: Mapping[str, Any]
    parent: int | None = None
    cost: float | None = None


def first_members(search: Search) -> list[Member]:
    """Those that random search with this seed would try."""
    return [
        Member(at={key: position_at(values, shares[key]) for key, values in search.distributions.items()})
        for shares in search.shares()
    ]


def next_members(search: Search, past: Sequence[Sequence[Member]]) -> list[Member]:
    """The members of the generation that follows these, whose last one has costs. Raises `ValueError` where all of it failed."""
    last, generation = past[-1], len(past)
    ranked = sorted((i for i, m in enumerate(last) if m.cost is not None), key=lambda i: (last[i].cost, i))
    if not ranked:
        raise ValueError(f"no member of generation {generation} finished, so there is none to go on from")
    cut = min(math.ceil(search.share_replaced * len(last) - 1e-9), len(last) // 2)
    top = ranked[:cut]
    failed = [i for i, member in enumerate(last) if member.cost is None]
    replaced = {*failed, *[i for i in ranked[len(ranked) - max(0, cut - len(failed)) :] if i not in top]}
    members: dict[int, Member] = {
        i: Member(at=last[i].at, parent=i) for i in range(len(last)) if i not in replaced
    }
    bandit = None
    if search.name == "pb2":
        bandit = Bandit(search, data=_gains(past), beside=[(generation, m.at) for m in members.values()])
    for number in sorted(replaced):
        chosen = top[int(stream(search.seed, f"exploit/{generation}/{number}").integers(len(top)))]
        for attempt in range(ATTEMPTS):
            draw = f"{generation}/{number}/{attempt}"
            at = _explore(search, last[chosen].at, draw)
            if (
                bandit is not None and attempt == 0
            ):  # what it proposes twice, at the end of a range say, is left to chance
                at |= bandit.propose(generation, at, draws=stream(search.seed, f"bandit/{draw}"))
            members[number] = Member(at=at, parent=chosen)
            if all(members[number] != other for place, other in members.items() if place != number):
                break
    return [members[number] for number in range(len(last))]


def _explore(search: Search, at: Mapping[str, Any], draw: str) -> dict[str, Any]:
    """Each setting drawn anew, or changed a little."""
    found = {}
    for key, values in search.distributions.items():
        draws = stream(search.seed, f"explore/{draw}/{key}")
        anew, share, upwards = draws.random(), draws.random(), bool(draws.random() < 0.5)
        found[key] = (
            position_at(values, share)
            if anew < search.share_resampled
            else _perturb(values, at[key], upwards=upwards)
        )
    return found


def _perturb(values: Range | Choices, place: Any, *, upwards: bool) -> Any:
    if isinstance(values, Choices):
        return min(max(place + PLACES[upwards], 0), len(values.choices) - 1)
    new = values.rounded(place * (LARGER if upwards else SMALLER))
    if values.int and new == place:
        new = values.rounded(place + PLACES[upwards])
    return new


def position_at(values: Range | Choices, share: float) -> Any:
    """Below which this share of draws lies: a number of a range, the number of a choice."""
    return int(share * len(values.choices)) if isinstance(values, Choices) else values.quantile(share)


def _gains(past: Sequence[Sequence[Member]]) -> list[tuple[int, Mapping[str, Any], float]]:
    """What each run gained: generation, settings, and by how much its cost is below that of the run it went on from.

    Networks of the first generation begin alike, so there the cost itself tells the same but for a constant.
    """
    found: list[tuple[int, Mapping[str, Any], float]] = []
    for generation, members in enumerate(past):
        for member in members:
            begun = past[generation - 1][member.parent].cost if member.parent is not None else 0.0
            if member.cost is not None and begun is not None:
                found.append((generation, member.at, begun - member.cost))
    return found
