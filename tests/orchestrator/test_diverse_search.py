"""LISSNAS and FGPS: pockets and diverse seeds worked out by hand, and the random search that both come to at a limit."""

from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruneyard import run
from pruneyard.orchestrator.search.diverse_search import (
    Trial,
    elite,
    from_diverse,
    in_pockets,
    locality_radius,
    pockets,
)
from pruneyard.orchestrator.search.space import Point, Space, farthest, quantile_of
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.search import Choices, Range, stream

LINE = Space({"x": Range(low=0.0, high=1.0)})
MIXED = Space(
    {
        "a": Range(low=0.01, high=1.0, log=True),
        "n": Range(low=1, high=6, int=True),
        "c": Choices(choices=("p", "q", "r")),
        "d": Choices(choices=(1, 2)),
        "e": Choices(choices=("constant",)),
    }
)


def on_line(*costs: tuple[float, float]) -> list[Trial]:
    return [Trial({"x": x}, cost) for x, cost in costs]


def test_the_radius_is_where_neighbours_stop_being_alike_and_pockets_do_not_hold_one_another() -> None:
    """By hand: of the six pairs the two at 0.1 differ by nothing, the next one, at 0.7, by 1; the mean of all is 2/3."""
    trials = on_line((0.0, 0.0), (0.1, 0.0), (0.8, 1.0), (0.9, 1.0))
    assert locality_radius(trials, LINE.distance) == pytest.approx(0.1)
    both = on_line((0.2, 0.0), (0.25, 0.1), (0.7, 0.2), (0.5, 3.0))
    assert pockets(elite(both, 0.75), 0.1, LINE.distance) == [{"x": 0.2}, {"x": 0.7}]
    assert elite(both, 0.01) == both[:1]


def test_seeds_are_the_best_trial_and_then_the_farthest_of_the_good_ones() -> None:
    """By hand: from 0.5 both ends are equally far, so the first; then the other end; then 0.2, 0.2 from its neighbour."""
    points = [{"x": x} for x in (0.5, 0.0, 0.55, 1.0, 0.2)]
    assert farthest(points, 4, LINE.distance) == [0, 1, 3, 4]
    assert farthest(points, 9, LINE.distance) == [0, 1, 3, 4, 2]


def test_the_seeds_are_at_least_half_as_far_apart_as_any_choice_of_as_many() -> None:
    """The bound of the farthest-point traversal, against all subsets of random points."""
    generator = np.random.default_rng(0)

    def spread(chosen: Any) -> float:
        return min(MIXED.distance(a, b) for a, b in combinations(chosen, 2))

    for _ in range(20):
        points = [MIXED.sample(generator) for _ in range(8)]
        ours = [points[place] for place in farthest(points, 3, MIXED.distance)]
        assert spread(ours) >= max(map(spread, combinations(points, 3))) / 2 - 1e-12


def test_the_distance_is_a_metric_and_samples_near_a_point_are_near() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        a, b, c = (MIXED.sample(generator) for _ in range(3))
        for x, y, z in permutations((a, b, c)):
            assert MIXED.distance(x, z) <= MIXED.distance(x, y) + MIXED.distance(y, z) + 1e-12
        assert MIXED.distance(a, a) == 0
        radius = float(generator.random())
        assert MIXED.distance(a, MIXED.near(a, radius, generator)) <= radius + 1e-9
    assert MIXED.distance({"a": 0.1}, {"a": 0.1, "c": 1}) == 1 / 4, "a key that only one of them has"


@pytest.mark.parametrize("values", [Range(low=0.01, high=1.0, log=True), Range(low=1, high=6, int=True), Range(low=-1, high=3)])
def test_quantiles_and_values_are_inverse(values: Range) -> None:
    for share in np.linspace(0.0, 0.999, 50):
        assert values.quantile(quantile_of(values, values.quantile(share))) == values.quantile(share)


def test_without_locality_and_with_every_key_changed_both_are_a_random_search() -> None:
    equal = on_line(*((x, 1.0) for x in (0.1, 0.4, 0.8)))
    given: dict[str, Any] = {"share": 0.5}
    expected = [LINE.sample(generator) for generator in [stream(0, "round/1")] for _ in range(5)]
    points, told = in_pockets(equal, LINE, 5, generator=stream(0, "round/1"), **given)
    assert points == expected
    assert told == {"radius": None, "num_pockets": 0}
    generator = np.random.default_rng(2)
    trials = [Trial(MIXED.sample(generator), cost) for cost in range(40)]
    points, _ = from_diverse(trials, MIXED, 3000, chance=1.0, generator=stream(0, "round/1"), **given)
    counts = np.bincount([point["c"] for point in points])
    assert counts.min() > 1000 - 5 * np.sqrt(3000 * 2 / 9)


def test_one_seed_and_no_further_change_moves_one_key_of_the_best() -> None:
    """A share of nothing leaves the best trial alone: the mutation of one setting of the best so far."""
    best: Point = {"a": 0.1, "n": 3, "c": 1, "d": 0, "e": 0}
    trials = [Trial({**best, "n": 6, "c": 2}, 1.0), Trial(best, 0.0)]
    points, told = from_diverse(trials, MIXED, 50, share=0.01, chance=0.0, generator=np.random.default_rng(0))
    assert told == {"num_seeds": 1}
    assert all(sum(point[key] != best[key] for key in point) <= 1 for point in points)


@pytest.mark.parametrize("name", ["lissnas", "fgps"])
def test_a_search_resumes_and_finds_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("def f(x=0.5):\n    return {'accuracy': 1 - (x - 0.3) ** 2}\n")
    search = {"name": name, "batch": 4, "metric": "val/accuracy", "space": {"arguments.x": {"low": 0.0, "high": 1.0}}}
    spec = {"name": "s", "kind": "function", "function": f"{tmp_path}/code.py:f", "search": {**search, "max_trials": 12}}
    whole = run(spec, tmp_path / "whole", local=True).runs()
    assert len(whole) == 12
    run({**spec, "search": {**search, "max_trials": 6}}, tmp_path / "parts", local=True)
    assert len(run({**spec, "search": {**search, "max_trials": 8}}, tmp_path / "parts", local=True).runs()) == 8
    again = run(spec, tmp_path / "again", local=True).runs()
    assert set(again["run_key"]) == set(whole["run_key"])


def test_keys_of_other_searches_are_refused() -> None:
    spec = {"name": "s", "kind": "sparse", "data": "digits", "model": "mlp", "method": "dense", "budget": {"steps": 1}}
    space = {"optimizer.lr": {"low": 0.1, "high": 1.0}}
    for name, key, value in (("lissnas", "resample", 0.5), ("fgps", "generations", 3), ("tpe", "quantile", 0.5)):
        table = {"name": name, "max_trials": 4, "metric": "val/accuracy", "space": space, key: value}
        with pytest.raises(ValueError, match=f"{key}: is {value}; {name} has no use for it"):
            load_spec({**spec, "search": table})
