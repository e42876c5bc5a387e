import math
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pruneyard.testing.cases import each_case
from pruneyard.workloads.masks.distributions import (
    active_counts,
    dense_layers,
    er,
    erk,
    proportional_counts,
    uniform,
)

SHAPES = {"stem.weight": (8, 3, 3, 3), "blocks.0.weight": (16, 8, 3, 3), "head.weight": (10, 16)}


def published_loop(shapes: dict[str, tuple[int, ...]], density: float) -> dict[str, float]:
    """Caps densities as published code does: one maximum at a time, zeros and ones counted separately."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    full: set[str] = set()
    while True:
        rest = [name for name in shapes if name not in full]
        ones = sum(density * sizes[name] for name in rest)
        ones -= sum((1 - density) * sizes[name] for name in full)
        if not rest:
            return dict.fromkeys(shapes, 1.0)
        scale = ones / sum(raw[name] * sizes[name] for name in rest)
        largest = max(raw[name] for name in rest)
        if scale * largest <= 1:
            return {name: 1.0 if name in full else scale * raw[name] for name in shapes}
        full |= {name for name in rest if raw[name] == largest}


networks = st.lists(
    st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple), min_size=1, max_size=8
).map(lambda shapes: {f"layers.{index}.weight": shape for index, shape in enumerate(shapes)})


def test_er_by_hand() -> None:
    # raw: (2+4)/8 = 0.75 and (8+4)/32 = 0.375; sum raw*N = 6 + 12; 10 of 40 to give: scale 10/18.
    densities = er({"a": (2, 4), "b": (8, 4)}, 0.25)
    assert densities == pytest.approx({"a": 0.75 * 10 / 18, "b": 0.375 * 10 / 18})


def test_erk_by_hand_with_one_layer_capped() -> None:
    # raw: 4/4 = 1 and 200/10000 = 0.02; sum raw*N = 204; 0.1 of 10004 gives scale 4.9, so the first is full
    # and the second gets what is left, 996.4 of 10000.
    densities = erk({"a": (2, 2), "b": (100, 100)}, 0.1)
    assert densities == pytest.approx({"a": 1.0, "b": 0.09964})


def test_er_ignores_the_kernel_where_erk_counts_it() -> None:
    shapes = {"a": (4, 4, 5, 5), "b": (4, 4, 1, 1)}
    assert er(shapes, 0.1)["a"] == er(shapes, 0.1)["b"]
    assert erk(shapes, 0.1)["a"] < erk(shapes, 0.1)["b"]


@settings(deadline=None)
@given(networks, st.floats(0.001, 0.999))
def test_erk_equals_the_published_loop(shapes: dict[str, tuple[int, ...]], density: float) -> None:
    assert erk(shapes, density) == pytest.approx(published_loop(shapes, density), rel=1e-9)


@settings(deadline=None)
@given(networks, st.floats(0.001, 1), st.sampled_from([uniform, er, erk]))
def test_counts_add_up_exactly_and_stay_close_to_the_rule(
    shapes: dict[str, tuple[int, ...]],
    density: float,
    rule: Callable[[dict[str, tuple[int, ...]], float], dict[str, float]],
) -> None:
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = round(density * sum(sizes.values()))
    assume(total >= len(sizes))
    counts = active_counts(shapes, density=density, rule=rule.__name__)
    assert sum(counts.values()) == total
    assert list(counts) == list(shapes)
    assert all(1 <= counts[name] <= size for name, size in sizes.items())
    ideal = {name: rule(shapes, density)[name] * size for name, size in sizes.items()}
    if min(ideal.values()) >= 1:
        assert all(abs(counts[name] - ideal[name]) < 1 + 1e-6 for name in sizes)


def test_density_one_keeps_everything() -> None:
    for rule in ("uniform", "er", "erk"):
        assert active_counts(SHAPES, density=1.0, rule=rule) == {n: math.prod(s) for n, s in SHAPES.items()}


def test_layers_kept_dense_are_left_out_of_both_sums() -> None:
    counts = active_counts(SHAPES, density=0.1, rule="uniform", keep_dense=["first", "head"])
    assert counts == {"blocks.0.weight": round(0.1 * 16 * 8 * 9)}


@each_case(
    ("patterns", "expected"),
    [
        ([], set()),
        (["first"], {"stem.weight"}),
        (["head"], {"head.weight"}),
        (["head.weight"], {"head.weight"}),
        (["blocks.*"], {"blocks.0.weight"}),
        (["*e*"], set(SHAPES)),
        (["first", "h??d"], {"stem.weight", "head.weight"}),
    ],
)
def test_layers_are_kept_dense_by_name_pattern_or_place(patterns: list[str], expected: set[str]) -> None:
    assert dense_layers(list(SHAPES), patterns) == expected


def test_a_pattern_that_matches_nothing_is_refused_with_the_layers() -> None:
    with pytest.raises(ValueError, match=r"keep_dense has 'haed'; it must match one of stem\.weight, blocks"):
        dense_layers(list(SHAPES), ["head", "haed"])


def test_keeping_every_layer_dense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keep_dense is .*; it must leave one of stem\.weight"):
        active_counts(SHAPES, density=0.5, rule="erk", keep_dense=["*"])


def test_a_density_that_empties_a_layer_is_refused_with_the_smallest_allowed() -> None:
    with pytest.raises(ValueError, match=r"density is 0\.001; .* 3 layers, so at least 0\.0019"):
        active_counts(SHAPES, density=0.001, rule="erk")


def test_a_tiny_layer_keeps_one_weight_at_the_cost_of_a_large_one() -> None:
    counts = active_counts({"a": (2, 2), "b": (100, 100)}, density=0.01, rule="uniform")
    assert counts == {"a": 1, "b": 99}


def test_proportional_counts_pass_on_what_a_layer_cannot_hold() -> None:
    # 12 as 4 : 1 : 1 is 8, 2, 2; the first holds 5, so the others share 7 as 3.5 each, the earlier one first.
    capacities = {"a": 5, "b": 9, "c": 9}
    assert proportional_counts(12, shares={"a": 4.0, "b": 1.0, "c": 1.0}, capacities=capacities) == {
        "a": 5,
        "b": 4,
        "c": 3,
    }
    assert proportional_counts(23, shares={"a": 4.0, "b": 0.0, "c": 0.0}, capacities=capacities) == capacities
    assert proportional_counts(9, shares={"a": 1.0, "b": 0.0, "c": 0.0}, capacities=capacities) == {
        "a": 5,
        "b": 2,
        "c": 2,
    }


def test_the_excess_of_a_full_layer_is_shared_equally() -> None:
    # 12 as 8 : 3 : 1; the first holds 5, so the others get 1.5 more each: 4.5 and 2.5, the earlier one first.
    shares, capacities = {"a": 8.0, "b": 3.0, "c": 1.0}, {"a": 5, "b": 20, "c": 20}
    assert proportional_counts(12, shares=shares, capacities=capacities) == {"a": 5, "b": 5, "c": 2}
    # 24 as 16 : 6 : 2; the first passes on 11, of which the last has room for 2 alone, so the second gets 9.
    assert proportional_counts(24, shares=shares, capacities=capacities | {"c": 4}) == {"a": 5, "b": 15, "c": 4}


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 50)), min_size=1, max_size=8), st.floats(0, 1))
def test_proportional_counts_sum_up_and_follow_shares_below_capacity(
    layers: list[tuple[float, int]], part: float
) -> None:
    shares = {str(i): share for i, (share, _) in enumerate(layers)}
    capacities = {str(i): capacity for i, (_, capacity) in enumerate(layers)}
    total = int(part * sum(capacities.values()))
    counts = proportional_counts(total, shares=shares, capacities=capacities)
    assert sum(counts.values()) == total
    assert all(0 <= counts[name] <= capacities[name] for name in shares)
    open_layers = [name for name in shares if counts[name] < capacities[name]]
    for name in open_layers:  # a larger share gets no less, but for the rounding
        assert all(
            counts[name] >= counts[other] - 1 for other in open_layers if shares[name] >= shares[other] > 0
        )
