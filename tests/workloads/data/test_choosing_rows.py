"""Selectors against examples worked by hand, brute-force twins, and planted rows."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.selection import Pool, area_under_margin, forgetting_events
from pruneyard.workloads.data.selectors.ccs import CCS, allocate_evenly, stratum_index
from pruneyard.workloads.data.selectors.el2n import EL2N
from pruneyard.workloads.data.selectors.forgetting import Forgetting
from pruneyard.workloads.data.selectors.grand import GraNd
from pruneyard.workloads.data.selectors.herding import Herding
from pruneyard.workloads.data.selectors.k_center import KCenter
from pruneyard.workloads.data.selectors.k_means import KMeans, cluster_means, squared_distances
from pruneyard.workloads.data.selectors.random import Random
from pruneyard.workloads.seeding import stream


def of_features(*points: list[float] | float) -> Pool:
    """Returns one class of rows with these features."""
    features = torch.tensor([[point] if isinstance(point, float) else point for point in points])
    return Pool(labels=torch.zeros(len(features), dtype=torch.int64), features=features)


def of_right(right: list[list[int]]) -> Pool:
    """Returns one class and one network; `right[n][e]` says whether row n was right after epoch e."""
    margins = torch.tensor(right, dtype=torch.float32).T[None] * 2 - 1
    return Pool(labels=torch.zeros(len(right), dtype=torch.int64), margins=margins)


def of_errors(*errors: float) -> Pool:
    return Pool(labels=torch.zeros(len(errors), dtype=torch.int64), errors=torch.tensor([[list(errors)]]))


def choose(rule: object, pool: Pool, count: int, seed: int = 0) -> list[int]:
    chosen: Tensor = rule.select(pool, [count], stream(seed, "select"))  # type: ignore[attr-defined]
    return chosen.tolist()


def random_points(num: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn((num, width), generator=stream(seed, "points"))


def test_random_rows_are_each_as_likely() -> None:
    pool = of_features(*[0.0] * 5)
    counts = torch.bincount(torch.tensor([choose(Random(), pool, 2, seed) for seed in range(2000)]).flatten())
    assert (counts - 800).abs().max() < 5 * (2000 * 0.4 * 0.6) ** 0.5


def test_herding_by_hand() -> None:
    """The mean is 3. 2 is nearest; then 4 makes the mean 3; then of 0, 1 and 8 it is 1 that keeps it nearest."""
    pool = of_features(0.0, 1.0, 2.0, 4.0, 8.0)
    assert choose(Herding(), pool, 3) == [2, 3, 1]
    assert choose(Herding(), pool, 5) == [2, 3, 1, 4, 0]


def test_herding_is_greedy_as_its_twin_that_tries_every_row() -> None:
    points = random_points(30, 5)
    mean, taken = points.double().mean(0), []
    for _ in range(12):
        rest = [row for row in range(30) if row not in taken]
        taken.append(min(rest, key=lambda row: float((points[[*taken, row]].double().mean(0) - mean).norm())))
    assert choose(Herding(), of_features(*points.tolist()), 12) == taken


def test_the_mean_of_herded_rows_comes_nearer_as_one_over_their_number() -> None:
    """Their offsets from the mean never add up to more than one row's own; those of 128 random rows do, to about 20."""
    points = random_points(400, 3)
    offsets = points - points.mean(0)
    taken = choose(Herding(), of_features(*points.tolist()), 128)
    assert offsets[taken].cumsum(0).norm(dim=1).max() < offsets.norm(dim=1).median()


def test_herding_takes_the_twin_of_a_pick_last_where_it_would_pull_the_mean_aside() -> None:
    assert choose(Herding(), of_features(-2.0, -2.0, 1.0, 3.0), 4) == [2, 0, 3, 1]


def test_k_center_by_hand() -> None:
    """From 4, the row nearest to the mean of 3.6, to the farthest, 9; then 0; then 2, 2 away from both its neighbours."""
    pool = of_features(0.0, 2.0, 4.0, 3.0, 9.0)
    assert choose(KCenter(init="central"), pool, 4) == [2, 4, 0, 1]


@each_case("seed", range(5))
def test_k_center_radius_shrinks_and_is_at_most_twice_the_best(seed: int) -> None:
    points = random_points(12, 2, seed)
    between = torch.cdist(points, points)
    taken = choose(KCenter(), of_features(*points.tolist()), 6, seed)
    radii = [float(between[:, taken[:num]].amin(1).max()) for num in range(1, 7)]
    assert radii == sorted(radii, reverse=True)
    for num in (2, 3, 4):
        best = min(float(between[:, list(few)].amin(1).max()) for few in combinations(range(12), num))
        assert radii[num - 1] <= 2 * best + 1e-5


def test_k_center_never_takes_both_of_two_equal_rows_before_the_rest_is_covered() -> None:
    points = random_points(10, 64) * 100  # distances by expanded squares leave some rounding
    pool = of_features(*points.tolist(), *points.tolist())
    for seed in range(10):
        taken = choose(KCenter(), pool, 20, seed)
        assert len({row % 10 for row in taken[:10]}) == 10
        assert sorted(taken) == list(range(20))


def test_k_center_starts_anywhere() -> None:
    pool = of_features(0.0, 1.0, 2.0)
    assert {choose(KCenter(), pool, 1, seed)[0] for seed in range(30)} == {0, 1, 2}


def test_k_means_by_hand() -> None:
    """Two groups; their centres are 1 and 11, whose nearest rows are the middle ones."""
    pool = of_features(0.0, 1.0, 2.0, 10.0, 11.0, 12.0)
    for seed in range(10):
        assert sorted(choose(KMeans(), pool, 2, seed)) == [1, 4]


def test_k_means_finds_the_best_clusters_from_many_starts() -> None:
    """It finds the parting of ten rows with the least squared distance to the means; its rows are the nearest to them."""
    points = random_points(10, 2)

    def cost(part: tuple[int, ...]) -> float:
        rest = [row for row in range(10) if row not in part]
        return sum(float((points[rows] - points[rows].mean(0)).square().sum()) for rows in (list(part), rest))

    best = min((part for size in range(1, 6) for part in combinations(range(10), size)), key=cost)
    sides = [list(best), [row for row in range(10) if row not in best]]
    wanted = {side[int((points[side] - points[side].mean(0)).norm(dim=1).argmin())] for side in sides}
    found = [set(choose(KMeans(), of_features(*points.tolist()), 2, seed)) == wanted for seed in range(20)]
    assert sum(found) > 5  # a pair of random rows is it in 1 of 45 cases


def test_a_cluster_without_rows_stays_where_it_was() -> None:
    points = torch.tensor([[0.0], [2.0]])
    assert cluster_means(points, torch.tensor([0, 0]), torch.tensor([[5.0], [7.0]])).tolist() == [[1.0], [7.0]]
    assert squared_distances(points, torch.tensor([[1.0], [2.0]])).tolist() == [[1.0, 4.0], [1.0, 0.0]]


def test_hardest_easiest_and_skipped_rows_by_hand() -> None:
    pool = of_errors(0.1, 0.9, 0.5, 0.9, 0.3)
    assert choose(EL2N(), pool, 3) == [1, 3, 2]  # of equals the first
    assert choose(EL2N(keep="easiest"), pool, 2) == [0, 4]
    assert choose(EL2N(skip=0.4), pool, 2) == [2, 4]
    assert choose(EL2N(skip=0.4), pool, 4) == [3, 2, 4, 0]  # as many as can be skipped


def test_grand_is_the_mean_over_networks() -> None:
    norms = torch.tensor([[1.0, 5.0, 3.0], [4.0, 1.0, 3.0]])
    pool = Pool(labels=torch.zeros(3, dtype=torch.int64), gradient_norms=norms)
    assert choose(GraNd(), pool, 3) == [1, 2, 0]  # means of 2.5, 3, 3


def test_forgetting_by_hand() -> None:
    pool = of_right([[1, 1, 1, 1], [0, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]])
    assert forgetting_events(pool).tolist() == [0, 0, 2, 4, 1]
    assert choose(Forgetting(), pool, 5) == [3, 2, 4, 0, 1]


def test_margins_add_up_over_epochs_and_average_over_networks() -> None:
    margins = torch.tensor([[[0.5, -1.0], [0.25, -0.5]], [[-0.25, 0.0], [0.0, 0.5]]])
    pool = Pool(labels=torch.zeros(2, dtype=torch.int64), margins=margins)
    assert area_under_margin(pool).tolist() == [0.25, -0.5]


def test_shares_by_hand() -> None:
    assert allocate_evenly([5, 1, 3], 6) == [3, 1, 2]
    assert allocate_evenly([5, 1, 3], 9) == [5, 1, 3]
    assert allocate_evenly([0, 4, 0, 4], 1) == [0, 0, 0, 1]


@each_case("seed", range(20))
def test_shares_add_up_and_no_stratum_gives_more_than_it_has(seed: int) -> None:
    draws = stream(seed, "sizes")
    sizes = torch.randint(0, 9, (7,), generator=draws).tolist()
    for total in range(sum(sizes) + 1):
        given = allocate_evenly(sizes, total)
        assert sum(given) == total
        assert all(0 <= some <= size for some, size in zip(given, sizes, strict=True))


def test_strata_are_of_equal_width_and_not_of_equal_size() -> None:
    values = torch.tensor([0.0, 0.1, 0.2, 0.9, 1.0], dtype=torch.float64)
    assert stratum_index(values, 2).tolist() == [0, 0, 0, 1, 1]
    assert stratum_index(values.square(), 2).tolist() == [0, 0, 0, 1, 1]
    assert stratum_index(values.sqrt(), 2).tolist() == [0, 0, 0, 1, 1]
    assert stratum_index(values.sqrt(), 4).tolist() != stratum_index(values, 4).tolist()
    assert stratum_index(torch.full((3,), 7.0), 5).tolist() == [0, 0, 0]


def test_ccs_covers_what_is_left_without_the_hardest() -> None:
    """Ten easy rows, two of middling hardness, three hard ones: those dropped. Both strata that are left give two."""
    pool = of_errors(*[0.1] * 10, 0.5, 0.52, 1.2, 1.3, 1.4)
    for seed in range(20):
        taken = choose(CCS(score="el2n", drop=0.2, strata=10), pool, 4, seed)
        assert {10, 11} < set(taken)
        assert max(taken) < 12
    assert max(choose(CCS(score="el2n", drop=0.2), pool, 13)) >= 12  # more are wanted than are left


def test_ccs_with_one_stratum_and_nothing_dropped_is_random() -> None:
    pool = of_errors(*[i / 10 for i in range(6)])
    chosen = torch.tensor([choose(CCS(score="el2n", drop=0.0, strata=1), pool, 2, seed) for seed in range(2000)])
    counts = torch.bincount(chosen.flatten(), minlength=6)
    assert (counts - 2000 / 3).abs().max() < 5 * (2000 * 2 / 9) ** 0.5


@each_case(
    ("rule", "fields", "message"),
    [
        (EL2N, {"keep": "all"}, "keep is 'all'"),
        (EL2N, {"skip": 1.0}, "skip is 1.0"),
        (GraNd, {"layers": "first"}, "layers is 'first'"),
        (KCenter, {"init": "last"}, "init is 'last'"),
        (KMeans, {"iterations": -1}, "iterations is -1"),
        (CCS, {"score": "loss"}, "score is 'loss'; it must be one of margin, el2n, forgetting"),
        (CCS, {"drop": 1.0}, "drop is 1.0"),
        (CCS, {"strata": 0}, "strata is 0"),
    ],
)
def test_values_out_of_range_are_refused(rule: type, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        rule(**fields)
