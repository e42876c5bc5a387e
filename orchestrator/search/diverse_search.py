"""Searches that keep several good regions of a space: LISSNAS shrinks it to pockets, FGPS seeds rounds with diverse trials.

Only the abstracts of both papers were available. From LISSNAS: locality, the relation between similarity of settings and of
performance, gives many pockets of good settings, to which the space shrinks. Unverified: how locality is measured, how large a
pocket is, and that the space shrinks after every round. From FGPS: among good trials those that lie far apart are sampled, so
that quality and diversity balance. Unverified: the greedy rule from the best trial on, and that the next trials are changes of
these. Both papers sample paths of a supernet; here every trial is trained on its own.

References: Gopal et al. 2023, LISSNAS: Locality-based Iterative Search Space Shrinkage for Neural Architecture Search; Wang et
al. 2024, Farthest Greedy Path Sampling for Two-shot Recommender Search.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from pruneyard.orchestrator.search.objective_values import ObjectiveValues
from pruneyard.orchestrator.search.round_search import RoundSearch
from pruneyard.orchestrator.search.space import Point, Space, farthest
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.search import stream

NUM_BINS = 10  # of the distances between trials, by which locality is measured
SIMILAR = 0.5  # trials are similar whose difference is at most this share of the mean difference


@dataclass(frozen=True)
class Trial:
    """A finished trial: its point and its cost, of which less is better."""

    at: Point
    cost: float


def elite(trials: Sequence[Trial], share: float) -> list[Trial]:
    """Returns this share of the trials, at least one, the best first; of equal ones those proposed first."""
    return sorted(trials, key=lambda trial: trial.cost)[: max(1, math.ceil(share * len(trials)))]


def locality_radius(trials: Sequence[Trial], distance: Callable[[Point, Point], float]) -> float | None:
    """Returns the distance up to which trials perform similarly; None where near trials are no more similar than others.

    The pairs of trials are divided by distance into `NUM_BINS` bins of equal counts. The radius is the largest distance in the
    bins from the nearest one on whose mean difference of costs is at most `SIMILAR` times that of all pairs.
    """
    pairs = sorted((distance(a.at, b.at), abs(a.cost - b.cost)) for a, b in combinations(trials, 2))
    overall = math.fsum(difference for _, difference in pairs) / len(pairs) if pairs else 0.0
    if overall == 0:
        return None
    edges = [round(number * len(pairs) / NUM_BINS) for number in range(NUM_BINS + 1)]
    radius = None
    for first, last in pairwise(edges):
        binned = pairs[first:last]
        if binned and math.fsum(difference for _, difference in binned) / len(binned) > SIMILAR * overall:
            break
        radius = binned[-1][0] if binned else radius
    return radius


def pockets(trials: Sequence[Trial], radius: float, distance: Callable[[Point, Point], float]) -> list[Point]:
    """Returns the centers of pockets: trials in their order, without those that lie within `radius` of a center before."""
    centers: list[Point] = []
    for trial in trials:
        if all(distance(trial.at, center) > radius for center in centers):
            centers.append(trial.at)
    return centers


def in_pockets(
    trials: Sequence[Trial], space: Space, number: int, *, share: float, generator: np.random.Generator
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the points of the next round of LISSNAS, taken from the pockets in turn, and what the space was shrunk to.

    Without locality the space stays whole, as in a random search.
    """
    radius = locality_radius(trials, space.distance)
    if radius is None:
        return [space.sample(generator) for _ in range(number)], {"radius": None, "num_pockets": 0}
    centers = pockets(elite(trials, share), radius, space.distance)
    points = [space.near(centers[place % len(centers)], radius, generator) for place in range(number)]
    return points, {"radius": radius, "num_pockets": len(centers)}


def from_diverse(
    trials: Sequence[Trial], space: Space, number: int, *, share: float, chance: float, generator: np.random.Generator
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the points of the next round of FGPS, and the number of trials that they are changes of.

    Among the best trials those are kept that lie farthest apart, from the best one on. With a chance of 1 every key is sampled
    anew, as in a random search.
    """
    best = [trial.at for trial in elite(trials, share)]
    seeds = [best[place] for place in farthest(best, number, space.distance)]
    if not seeds:
        return [space.sample(generator) for _ in range(number)], {"num_seeds": 0}
    points = [space.changed(seeds[place % len(seeds)], chance, generator) for place in range(number)]
    return points, {"num_seeds": len(seeds)}


class DiverseSearch(RoundSearch):
    """The state of a search by LISSNAS or FGPS in one folder of results. The first round is a uniform sample of the space."""

    def _next_round(self, number: int, jobs: Sequence[Sequence[Job]], runs: ObjectiveValues) -> Mapping[str, Any]:
        search = self._search
        ((metric, direction),) = search.directions.items()
        found = [runs.values(each, [metric]) for each in jobs]
        trials = [
            Trial(proposal["at"], values[0] if direction == "min" else -values[0])
            for proposal, values in zip(self._proposed, found, strict=True)
            if values is not None
        ]
        space, generator = Space(search.distributions), stream(search.seed, f"round/{self._round_number}")
        notes: dict[str, Any] = {}
        if not trials:
            points = [space.sample(generator) for _ in range(number)]
        elif search.name == "lissnas":
            points, notes = in_pockets(trials, space, number, share=search.share_replaced, generator=generator)
        else:
            points, notes = from_diverse(
                trials, space, number, share=search.share_replaced, chance=search.share_resampled, generator=generator
            )
        return {"proposals": [{"at": self._applied(point), "marks": {}} for point in points], **notes}

    def _applied(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the point without the keys that have no effect on its jobs."""
        applies = self._learning.applies(self._values(point))
        return {key: place for key, place in point.items() if key in applies}
