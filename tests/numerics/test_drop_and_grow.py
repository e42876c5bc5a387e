"""Mask updates worked by hand, and against a plain twin."""

import itertools
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import NO_NETWORK
from pruneyard.workloads.masks.masks import drop_and_grow, keep_largest, keep_largest_overall
from pruneyard.workloads.sparse.methods.magnitude import Magnitude
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.update_schedule import CubicSchedule, UpdateSchedule
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mask_of(text: str) -> Tensor:
    return torch.tensor([character == "1" for character in text])


def test_drops_the_smallest_weight_and_grows_the_largest_gradient() -> None:
    weight = torch.tensor([0.5, -0.1, 0.0, 0.9, 0.0, -0.3])
    gradient = torch.tensor([9.0, 1.0, -2.0, 9.0, 1.5, 9.0])
    after = drop_and_grow(
        mask_of("110101"),
        drop_scores=weight.abs(),
        grow_scores=gradient.abs(),
        num_moved=1,
        generator=generator(),
        layer="w",
    )
    assert (
        after.tolist() == mask_of("101101").tolist()
    )  # |-0.1| leaves, |-2| comes; active 9s are no candidates


def test_a_weight_just_dropped_grows_again_where_its_gradient_is_largest() -> None:
    weight = torch.tensor([0.5, -0.1, 0.0, 0.9])
    gradient = torch.tensor([0.0, 3.0, 2.0, 0.0])
    after = drop_and_grow(
        mask_of("1101"),
        drop_scores=weight.abs(),
        grow_scores=gradient.abs(),
        num_moved=1,
        generator=generator(),
        layer="w",
    )
    assert after.tolist() == mask_of("1101").tolist()


def test_an_active_weight_of_zero_is_dropped_before_any_inactive_one_counts() -> None:
    after = drop_and_grow(
        mask_of("11100"),
        drop_scores=torch.tensor([0.0, 0.2, 0.1, 0.0, 0.0]),
        grow_scores=torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]),
        num_moved=1,
        generator=generator(),
        layer="w",
    )
    assert after.tolist() == mask_of("01101").tolist()


def test_rigl_moves_the_floor_of_the_decayed_share() -> None:
    # Ten active of twenty, alpha 0.5, linear decay to step 100: at step 20 floor(0.5 * 0.8 * 10) = 4 move.
    method = RigL(
        density=0.5,
        drop_fraction=0.5,
        schedule=UpdateSchedule(every=20, until=0.5, decay="inverse_power", power=1.0),
    )
    mask = torch.arange(20) < 10
    context = UpdateContext(
        step=20,
        num_steps=200,
        weights={"w": torch.where(mask, torch.arange(1.0, 21.0), 0.0)},
        gradients={"w": -torch.arange(20.0)},
        generator=generator(),
        network=NO_NETWORK,
    )
    after = method.update(SparseState({"w": mask}), context).masks["w"]
    assert after.nonzero().flatten().tolist() == [4, 5, 6, 7, 8, 9, 16, 17, 18, 19]


def test_set_grows_every_candidate_equally_often() -> None:
    # Nine of ten candidates are inactive, one was just dropped: one of them grows, each with chance 1/10.
    method = SET(
        density=0.2, drop_fraction=0.5, schedule=UpdateSchedule(every=1, until=1.0, decay="constant")
    )
    mask = torch.arange(11) < 2
    weights = {"w": torch.where(mask, torch.arange(11.0) + 1, 0.0)}
    draws, grown = generator(), torch.zeros(11)
    for _ in range(2000):
        context = UpdateContext(step=1, num_steps=2, weights=weights, gradients={}, generator=draws, network=NO_NETWORK)
        grown += method.update(SparseState({"w": mask}), context).masks["w"]
    assert grown[1] == 2000
    others = torch.cat([grown[:1], grown[2:]])
    assert ((others - 200).abs() < 5 * (2000 * 0.1 * 0.9) ** 0.5).all()


def test_gradual_pruning_reaches_seven_eighths_of_the_sparsity_half_way() -> None:
    # Density 0.2 of 100: half-way floor(7/8 * 80) = 70 are gone, at the end all 80.
    method = Magnitude(
        density=0.2, distribution="uniform", schedule=CubicSchedule(begin=0.0, end=0.5, every=10)
    )
    weights = {"w": torch.arange(1.0, 101.0)}
    state = method.start(weights, generator=generator())
    for step, num_left in ((50, 30), (100, 20)):
        context = UpdateContext(
            step=step, num_steps=200, weights=weights, gradients={}, generator=generator(), network=NO_NETWORK
        )
        state = method.update(state, context)
        assert state.masks["w"].tolist() == [index >= 100 - num_left for index in range(100)]


def test_pruned_weights_stay_pruned_even_next_to_an_active_zero() -> None:
    method = Magnitude(density=0.25, scope="layer", schedule=CubicSchedule(begin=0.0, end=0.5, every=1))
    weights = {"w": torch.tensor([[0.0, 0.0], [0.0, 0.0]])}
    for active in range(4):
        mask = (torch.arange(4) == active).reshape(2, 2)
        context = UpdateContext(
            step=90, num_steps=100, weights=weights, gradients={}, generator=generator(active), network=NO_NETWORK
        )
        assert torch.equal(method.update(SparseState({"w": mask}), context).masks["w"], mask)


@pytest.mark.parametrize(
    ("scope", "left"), [("layer", [9.0, 8.0, 4.0, 3.0]), ("global", [9.0, 8.0, 7.0, 4.0])]
)
def test_the_scope_says_where_magnitudes_are_compared(
    scope: Literal["layer", "global"], left: list[float]
) -> None:
    weights = {"a": torch.tensor([[9.0, 8.0, 7.0, 6.0]]), "b": torch.tensor([[4.0, 3.0, 2.0, 1.0]])}
    method = Magnitude(density=0.5, distribution="uniform", scope=scope)
    state = method.start(weights, generator=generator())
    context = UpdateContext(
        step=99, num_steps=100, weights=weights, gradients={}, generator=generator(), network=NO_NETWORK
    )
    masks = method.update(state, context).masks
    assert [weight for name, mask in masks.items() for weight in weights[name][mask].tolist()] == left


def test_a_global_threshold_compares_layers_and_keeps_the_best_weight_of_each() -> None:
    scores = {"a": torch.tensor([5.0, 4.0, 3.0]), "b": torch.tensor([[0.1, 0.2]])}
    ones = {name: torch.ones_like(values, dtype=torch.bool) for name, values in scores.items()}
    masks = keep_largest_overall(scores, ones, count=3, generator=generator())
    assert masks["a"].tolist() == [True, True, False]  # 3 would be next, but b would be empty
    assert masks["b"].tolist() == [[False, True]]


def test_every_tied_subset_comes_equally_often() -> None:
    draws = generator()
    scores, among = torch.tensor([7.0, 1.0, 1.0, 1.0, 1.0, 9.0]), mask_of("111110")
    counts = dict.fromkeys(itertools.combinations(range(1, 5), 2), 0)
    for _ in range(3000):
        chosen = keep_largest(scores, among, count=3, generator=draws, layer="w").nonzero().flatten().tolist()
        assert chosen[0] == 0
        counts[(chosen[1], chosen[2])] += 1
    # Six pairs, 500 each expected, standard deviation sqrt(3000 * 1/6 * 5/6) = 20.4: five of them.
    assert all(abs(count - 500) < 102 for count in counts.values())


def test_without_ties_nothing_is_drawn() -> None:
    draws = generator()
    before = draws.get_state()
    keep_largest(torch.arange(9.0), mask_of("110111111"), count=4, generator=draws, layer="w")
    assert torch.equal(draws.get_state(), before)


@st.composite
def selections(draw: st.DrawFn) -> tuple[list[float], list[bool], int]:
    """Draws scores with many ties, eligible entries, and how many of these to keep."""
    size = draw(st.integers(1, 40))
    value = st.sampled_from([0.0, -0.0, 0.5, 1.0, -2.0, 3e38, 1e-45])
    scores = draw(st.lists(value, min_size=size, max_size=size))
    among = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return scores, among, draw(st.integers(0, sum(among)))


@settings(deadline=None)
@given(selections(), st.integers(0, 99))
def test_keeps_exactly_the_count_and_nothing_better_is_left_out(
    selection: tuple[list[float], list[bool], int], seed: int
) -> None:
    scores, among, count = selection
    kept = keep_largest(
        torch.tensor(scores), torch.tensor(among), count=count, generator=generator(seed), layer="w"
    ).tolist()
    inside = sorted(score for score, keep in zip(scores, kept, strict=True) if keep)
    best = sorted(score for score, eligible in zip(scores, among, strict=True) if eligible)
    assert inside == best[len(best) - count :]  # the twin: sort and cut
    assert all(eligible for eligible, keep in zip(among, kept, strict=True) if keep)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_drop_and_grow_keeps_counts_and_equals_the_plain_twin(
    rows: int, columns: int, density: float, fraction: float, seed: int
) -> None:
    draws = generator(seed)
    size = rows * columns
    mask = (torch.randperm(size, generator=draws) < int(density * size)).reshape(rows, columns)
    drop, grow = (torch.randperm(size, generator=draws).float().reshape(rows, columns) for _ in range(2))
    num_moved = int(fraction * int(mask.sum()))
    after = drop_and_grow(
        mask, drop_scores=drop, grow_scores=grow, num_moved=num_moved, generator=draws, layer="w"
    )
    active = sorted(mask.flatten().nonzero().flatten().tolist(), key=lambda i: drop.flatten()[i].item())
    kept = set(active[num_moved:])
    candidates = sorted(set(range(size)) - kept, key=lambda i: -grow.flatten()[i].item())
    assert set(after.flatten().nonzero().flatten().tolist()) == kept | set(candidates[:num_moved])
    assert int(after.sum()) == int(mask.sum())
    assert int((mask & ~after).sum()) == int((after & ~mask).sum()) <= num_moved


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 99))
def test_permuting_rows_and_columns_commutes(rows: int, columns: int, seed: int) -> None:
    draws = generator(seed)
    size = rows * columns
    mask, drop, grow = (
        torch.randperm(size, generator=draws).reshape(rows, columns),
        torch.randperm(size, generator=draws).float().reshape(rows, columns),
        torch.randperm(size, generator=draws).float().reshape(rows, columns),
    )
    mask = mask < size // 2
    order = torch.randperm(rows, generator=draws)[:, None], torch.randperm(columns, generator=draws)

    def move(mask: Tensor, drop: Tensor, grow: Tensor) -> Tensor:
        return drop_and_grow(
            mask, drop_scores=drop, grow_scores=grow, num_moved=size // 4, generator=generator(), layer="w"
        )

    assert torch.equal(move(mask, drop, grow)[order], move(mask[order], drop[order], grow[order]))


@each_case("bad", [torch.nan, torch.inf, -torch.inf])
@each_case("position", [0, 2])
def test_scores_that_are_not_finite_are_refused_by_the_layers_name(bad: float, position: int) -> None:
    scores = torch.ones(4)
    scores[position] = bad
    with pytest.raises(ValueError, match=r"scores of blocks\.3\.weight lie between .* must be finite"):
        keep_largest(scores, mask_of("1101"), count=2, generator=generator(), layer="blocks.3.weight")


def test_the_layout_in_memory_changes_nothing() -> None:
    scores = torch.rand(4, 3, 5, 5, generator=generator())
    among = torch.rand(4, 3, 5, 5, generator=generator(1)) < 0.5
    plain = keep_largest(scores, among, count=40, generator=generator(), layer="w")
    other = keep_largest(
        scores.to(memory_format=torch.channels_last), among, count=40, generator=generator(), layer="w"
    )
    assert torch.equal(plain, other)
    assert other.is_contiguous()


@each_case("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_ranked_too(dtype: torch.dtype) -> None:
    scores = torch.tensor([1.0, 4.0, 2.0, 3.0], dtype=dtype)
    kept = keep_largest(scores, mask_of("1011"), count=2, generator=generator(), layer="w")
    assert kept.tolist() == [False, False, True, True]
