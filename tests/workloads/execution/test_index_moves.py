"""Drop and grow on indices chooses what drop and grow on masks chooses, with the same random numbers."""

import pytest
import torch
from torch import Tensor

from pruneyard.workloads.masks import index_moves
from pruneyard.workloads.masks.index_moves import (
    RowScores,
    drop_and_grow_index,
    move_between_layers,
    random_index,
)
from pruneyard.workloads.masks.masks import (
    NonFiniteScoresError,
    drop_and_grow,
    keep_largest_overall,
    keep_largest_together,
    random_masks,
)
from pruneyard.workloads.masks.sparse_index import SparseIndex

SHAPE = (30, 20)


def scores(seed: int, *, levels: int) -> Tensor:
    """Returns scores of `SHAPE` with so many different values, so that few levels give many ties."""
    return torch.randint(levels, SHAPE, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("levels", [2, 5, 10**6])
@pytest.mark.parametrize("num_moved", [0, 1, 40, 60])
@pytest.mark.parametrize("grows_at_random", [True, False])
@pytest.mark.parametrize("num_active", [60, 560])
def test_the_choices_are_those_on_masks(
    monkeypatch: pytest.MonkeyPatch, levels: int, num_moved: int, grows_at_random: bool, num_active: int
) -> None:
    monkeypatch.setattr(index_moves, "BLOCK", 70)  # three rows at a time
    start = random_masks({"w": torch.empty(SHAPE)}, {"w": num_active}, generator=torch.Generator().manual_seed(2))["w"]
    drop, grow = scores(0, levels=levels), torch.zeros(SHAPE) if grows_at_random else scores(1, levels=levels)
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    moved = drop_and_grow(
        start, drop_scores=drop, grow_scores=grow, num_moved=num_moved, generator=generators[0], layer="w"
    )
    index = drop_and_grow_index(
        SparseIndex.of_mask(start),
        drop_scores=drop[start],
        grow_scores=None if grows_at_random else lambda first, last: grow[first:last],
        num_moved=num_moved,
        generator=generators[1],
        layer="w",
    )
    assert torch.equal(index.mask(), moved)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


@pytest.mark.parametrize("levels", [1, 2, 5, 10**6])  # with one level all scores tie, and places of ties are not kept
@pytest.mark.parametrize("num_moved", [1, 40, 118])
def test_moves_between_layers_are_those_on_masks(monkeypatch: pytest.MonkeyPatch, levels: int, num_moved: int) -> None:
    monkeypatch.setattr(index_moves, "BLOCK", 70)
    names = ("a", "b")
    start = random_masks(dict.fromkeys(names, torch.empty(SHAPE)), {"a": 90, "b": 30}, generator=torch.Generator().manual_seed(2))
    drop = {name: scores(number, levels=levels) for number, name in enumerate(names)}
    grow = {name: scores(number + 2, levels=levels) for number, name in enumerate(names)}
    one, other = (torch.Generator().manual_seed(7) for _ in range(2))
    kept = keep_largest_overall(drop, start, count=120 - num_moved, generator=one)
    grown = keep_largest_together(grow, {name: ~mask for name, mask in kept.items()}, count=num_moved, generator=one)

    def rows_of(dense: Tensor) -> RowScores:
        return lambda first, last: dense[first:last]

    moved = move_between_layers(
        {name: SparseIndex.of_mask(mask) for name, mask in start.items()},
        drop_scores={name: drop[name][mask] for name, mask in start.items()},
        grow_scores={name: rows_of(each) for name, each in grow.items()},
        num_moved=num_moved,
        generator=other,
    )
    for name in names:
        assert torch.equal(moved[name].mask(), kept[name] | grown[name])
    assert torch.equal(one.get_state(), other.get_state())


def test_a_random_index_is_the_random_mask() -> None:
    weight = torch.empty(SHAPE)
    one, other = (torch.Generator().manual_seed(3) for _ in range(2))
    index = random_index(weight.to("meta"), 50, generator=one)
    assert torch.equal(index.mask(), random_masks({"w": weight}, {"w": 50}, generator=other)["w"])


def test_scores_that_are_not_finite_are_refused_with_the_layer() -> None:
    index = random_index(torch.empty(SHAPE), 50, generator=torch.Generator().manual_seed(3))
    bad = torch.ones(SHAPE)
    bad[29, 3] = torch.nan
    with pytest.raises(NonFiniteScoresError, match="scores of hidden lie between"):
        drop_and_grow_index(
            index,
            drop_scores=torch.ones(50),
            grow_scores=lambda first, last: bad[first:last],
            num_moved=5,
            generator=torch.Generator(),
            layer="hidden",
        )
