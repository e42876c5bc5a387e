"""One step of population-based training on plain numbers: from the costs of a generation to the members of the next one.

The worst members are replaced by copies of some of the best, whose settings are then perturbed. All other members continue
unchanged. Every random number is a function of the search's seed, the generation and the member.

Reference: M. Jaderberg et al., "Population Based Training of Neural Networks", arXiv:1711.09846, 2017 (truncation selection).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneyard.orchestrator.search.pb2 import Bandit
from pruneyard.orchestrator.spec.search import Choices, Range, Search, stream

SMALLER, LARGER = 0.8, 1.2  # the perturbation factors of the paper
ATTEMPTS = 20  # to find settings that no other member has: two equal members would have the same run key
STEPS = -1, 1  # down or up, in the index of a choice or in whole numbers


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member of one generation.

    at: for each key of the space, a number of its range or the index of a choice.
    parent: index of the member of the generation before that it resumes from; None in the first generation.
    cost: at the end of the generation, smaller is better; None where one of its runs failed or none has ended.
    """

    at: Mapping[str, Any]
    parent: int | None = None
    cost: float | None = None


def first_members(search: Search) -> list[Member]:
    """Returns the members of the first generation: the proposals of random search with the same seed."""
    return [
        Member(at={key: position_at(values, shares[key]) for key, values in search.distributions.items()})
        for shares in search.shares()
    ]


def next_members(search: Search, past: Sequence[Sequence[Member]]) -> list[Member]:
    """Returns the members of the next generation.

    past: all generations so far; the last one has its costs.

    Raises `ValueError` where every member of the last generation failed.
    """
    last, generation = past[-1], len(past)
    # Equal costs are ranked by index, so that every call replaces the same members.
    ranked = sorted((i for i, m in enumerate(last) if m.cost is not None), key=lambda i: (last[i].cost, i))
    if not ranked:
        raise ValueError(f"no member of generation {generation} finished, so there is none to resume from")
    # The product may be rounded up beyond a whole number: 0.07 * 100 is 7.000000000000001.
    cut = min(math.ceil(search.share_replaced * len(last) - 1e-9), len(last) // 2)
    top = ranked[:cut]
    failed = [i for i, member in enumerate(last) if member.cost is None]
    replaced = {*failed, *[i for i in ranked[len(ranked) - max(0, cut - len(failed)) :] if i not in top]}
    members: dict[int, Member] = {
        i: Member(at=last[i].at, parent=i) for i in range(len(last)) if i not in replaced
    }
    bandit = None
    if search.name == "pb2":
        bandit = Bandit(search, data=_gains(past), pending=[(generation, m.at) for m in members.values()])
    for number in sorted(replaced):
        chosen = top[int(stream(search.seed, f"exploit/{generation}/{number}").integers(len(top)))]
        for attempt in range(ATTEMPTS):
            draw = f"{generation}/{number}/{attempt}"
            at = _explore(search, last[chosen].at, draw)
            # The bandit may propose the settings of another member again, at the end of a range say; then chance decides.
            if bandit is not None and attempt == 0:
                at |= bandit.propose(generation, at, draws=stream(search.seed, f"bandit/{draw}"))
            members[number] = Member(at=at, parent=chosen)
            if all(members[number] != other for place, other in members.items() if place != number):
                break
    return [members[number] for number in range(len(last))]


def _explore(search: Search, at: Mapping[str, Any], draw: str) -> dict[str, Any]:
    """Returns new settings: each is sampled anew with probability `share_resampled`, else perturbed."""
    settings = {}
    for key, values in search.distributions.items():
        draws = stream(search.seed, f"explore/{draw}/{key}")
        # All three are sampled in any case, so that none depends on whether another one is used.
        resample, share, upwards = draws.random(), draws.random(), bool(draws.random() < 0.5)
        settings[key] = (
            position_at(values, share)
            if resample < search.share_resampled
            else _perturb(values, at[key], upwards=upwards)
        )
    return settings


def _perturb(values: Range | Choices, place: Any, *, upwards: bool) -> Any:
    if isinstance(values, Choices):
        return min(max(place + STEPS[upwards], 0), len(values.choices) - 1)
    new = values.rounded(place * (LARGER if upwards else SMALLER))
    # 0.8 or 1.2 times a small whole number is rounded back to the number itself.
    if values.int and new == place:
        new = values.rounded(place + STEPS[upwards])
    return new


def position_at(values: Range | Choices, share: float) -> Any:
    """Returns the quantile at `share` in [0, 1): a number of a range, or the index of a choice."""
    return int(share * len(values.choices)) if isinstance(values, Choices) else values.quantile(share)


def _gains(past: Sequence[Sequence[Member]]) -> list[tuple[int, Mapping[str, Any], float]]:
    """Returns the gain of each run: generation, settings, and by how much its cost is below that of its parent.

    In the first generation there is no parent: all networks start alike, so the negative cost is the gain up to a constant.
    """
    found: list[tuple[int, Mapping[str, Any], float]] = []
    for generation, members in enumerate(past):
        for member in members:
            parent_cost = past[generation - 1][member.parent].cost if member.parent is not None else 0.0
            if member.cost is not None and parent_cost is not None:
                found.append((generation, member.at, parent_cost - member.cost))
    return found
