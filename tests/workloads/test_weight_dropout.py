import math
from functools import cache

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.training.weight_dropout import WeightDropout

NUM_ACTIVE, DRAWS = 60, 4000
LAYERS = {"first": torch.zeros(2, 2), "middle": torch.zeros(2, 2), "last": torch.zeros(2, 2)}


@cache
def left_out(drop: float) -> Tensor:
    """Returns (DRAWS, NUM_ACTIVE): 1 where a step, each with its own stream, drops a weight."""
    dropout, found = WeightDropout(drop=drop), torch.zeros(DRAWS, NUM_ACTIVE)
    for step in range(DRAWS):
        places = dropout.draw(NUM_ACTIVE, stream(0, "weight-dropout", step))
        assert len(places) == len(places.unique())
        found[step, places] = 1
    return found


@pytest.mark.parametrize("drop", [0.1, 0.5])
def test_each_weight_is_left_out_with_the_same_probability(drop: float) -> None:
    """Within 4 standard errors each, of the 60 weights and of them all."""
    found = left_out(drop)
    spread = math.sqrt(drop * (1 - drop) / DRAWS)
    assert float((found.mean(0) - drop).abs().max()) < 4 * spread
    assert abs(float(found.mean()) - drop) < 4 * spread / math.sqrt(NUM_ACTIVE)


def test_the_number_left_out_spreads_as_independent_draws_do() -> None:
    """Binomial: variance 60 * 0.1 * 0.9 = 5.4; the sample variance of 4000 draws has a standard error of some 2.3%."""
    counts = left_out(0.1).sum(1)
    assert float(counts.var()) == pytest.approx(5.4, rel=4 * 0.024)
    assert sorted(set(counts.tolist()))[0] < 2


@pytest.mark.parametrize("apart", [1, 2])
def test_steps_leave_out_independently_of_one_another(apart: int) -> None:
    """Left out in both of two steps: 0.01 of the weights, within 4 standard errors."""
    found = left_out(0.1)
    both = found[apart:] * found[:-apart]
    assert abs(float(both.mean()) - 0.01) < 4 * math.sqrt(0.01 * 0.99 / both.numel())


def test_two_weights_are_left_out_independently_of_one_another() -> None:
    found = left_out(0.1)
    both = (found[:, 1:] * found[:, :-1]).mean()
    assert abs(float(both) - 0.01) < 4 * math.sqrt(0.01 * 0.99 / (DRAWS * (NUM_ACTIVE - 1)))


def test_the_same_stream_draws_the_same_places() -> None:
    dropout = WeightDropout(drop=0.3)
    first, second = (dropout.draw(500, stream(1, "weight-dropout", 7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(
        first.sort().values, dropout.draw(500, stream(1, "weight-dropout", 8)).sort().values
    )


def test_weight_dropout_applies_to_all_layers_but_the_last_and_to_none_with_drop_0() -> None:
    assert WeightDropout(drop=0.1).layers(LAYERS, last="last") == ["first", "middle"]
    assert WeightDropout(drop=0.1).layers(LAYERS, last="classifier") == ["first", "middle", "last"]  # it is not prunable
    assert WeightDropout(drop=0.1, exclude_last=False).layers(LAYERS, last="last") == ["first", "middle", "last"]
    assert WeightDropout().layers(LAYERS, last="last") == []
    assert WeightDropout(drop=0.1).layers({}, last="last") == []


def test_what_stays_is_scaled_so_that_the_mean_of_a_weight_is_kept() -> None:
    assert WeightDropout(drop=0.2).scale == 1.0
    assert WeightDropout(drop=0.2, scaled=True).scale * (1 - 0.2) == pytest.approx(1.0, rel=1e-15)


@each_case("drop", [-0.1, 1.0, float("nan")])
def test_a_share_outside_its_range_is_refused(drop: float) -> None:
    with pytest.raises(ValueError, match=r"^drop is"):
        WeightDropout(drop=drop)
