"""Masks applied to the weights of a network: computation and gradient of a step, and the weights after it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruneyard.workloads.execution.layers import SparseLayers
from pruneyard.workloads.ranks import SINGLE_RANK
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.training.applied_masks import AppliedMasks
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState
from pruneyard.workloads.training.weight_dropout import WeightDropout

SHAPES = {"conv": (4, 3, 3, 3), "hidden": (20, 30), "head": (5, 20)}


class Decaying(Dense):
    """A method with its own weight decay."""

    def extra_decay(self, state: SparseState) -> Mapping[str, Tensor]:
        return {"head": torch.full(SHAPES["head"], 0.5)}


def tensors(seed: int) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draws) for name, shape in SHAPES.items()}


def masks(share: float = 0.4, seed: int = 9) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=draws) < share for name, shape in SHAPES.items()}


def steps_of(seed: int) -> Callable[[int], torch.Generator]:
    return lambda step: stream(seed, "weight-dropout", step)


def applied(
    state: SparseState,
    *,
    stream_of: Callable[[int], torch.Generator | None] = steps_of(0),  # noqa: B008 - has no state
    method: MaskUpdater | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    weights: Mapping[str, nn.Parameter] | None = None,
    **dropout: Any,
) -> AppliedMasks:
    weights = weights or {name: nn.Parameter(tensor) for name, tensor in tensors(0).items()}
    masked = SparseLayers(
        nn.Module(), weights, execution="masked", image_shape=(), macs={}, share=SINGLE_RANK.share(1), ranks=SINGLE_RANK
    )
    made = AppliedMasks(
        weights,
        method=method or Dense(),
        dropout=WeightDropout(**dropout),
        stream_of=stream_of,
        layers=masked,
        last=list(weights)[-1],
    )
    made.apply(state, optimizer or torch.optim.SGD(weights.values(), lr=0.1))
    return made


def standing(held: AppliedMasks) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in held.weights.items()}


def gradients_in_step(held: AppliedMasks, slopes: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
    """Returns the gradients of a loss that is linear in the weights of a step, with these slopes."""
    for weight in held.weights.values():
        weight.grad = None
    with held.step_weights(step):
        torch.stack([(weight * slopes[name]).sum() for name, weight in held.weights.items()]).sum().backward()
    return {name: weight.grad.clone() for name, weight in held.weights.items() if weight.grad is not None}


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_computes_with_some_of_the_active_weights_and_restores_all(scaled: bool) -> None:
    held = applied(SparseState(masks()), drop=0.25, scaled=scaled)
    before, step_weights = standing(held), held.sample(0)
    for name, weight in before.items():
        thinned = (step_weights[name] == 0) & (weight != 0)
        assert bool(thinned.any()) == (name != "head")  # spared
        scale = 1 / 0.75 if scaled and name != "head" else 1.0
        assert torch.equal(step_weights[name], torch.where(thinned, 0.0, weight * scale))
        assert torch.equal(held.weights[name], weight)


def test_weights_are_put_back_where_a_step_fails() -> None:
    held = applied(SparseState(masks()), drop=0.25)
    before = standing(held)
    with pytest.raises(RuntimeError, match="in the step"), held.step_weights(0):
        raise RuntimeError("in the step")
    assert all(torch.equal(held.weights[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("scaled", [False, True])
def test_the_gradient_is_cut_by_the_mask_that_cut_the_weights(scaled: bool) -> None:
    """The chain rule through scale * Z * w; inactive entries keep their dense gradient, which growth uses."""
    held = applied(SparseState(masks()), drop=0.25, scaled=scaled)
    slopes = tensors(5)
    for step in range(3):
        step_weights, found = held.sample(step), gradients_in_step(held, slopes, step)
        for name, weight in standing(held).items():
            thinned = (step_weights[name] == 0) & (weight != 0)
            scale = 1 / 0.75 if scaled and name != "head" else 1.0
            assert torch.equal(found[name], torch.where(thinned, 0.0, slopes[name] * scale))


def test_each_step_samples_its_own_mask_and_always_the_same() -> None:
    held = applied(SparseState(masks()), drop=0.25)
    first, second = held.sample(0), held.sample(1)
    assert torch.equal(held.sample(0)["hidden"], first["hidden"])
    assert not torch.equal(first["hidden"], second["hidden"])


def test_active_weights_are_left_out_as_often_as_said_and_others_never_chosen() -> None:
    """Of 500 draws over the active weights of two layers: within 4 standard errors of a tenth."""
    held = applied(SparseState(masks()), drop=0.1)
    num_active = sum(int(masks()[name].sum()) for name in ("conv", "hidden"))
    num_left_out, before = 0, standing(held)
    for step in range(500):
        step_weights = held.sample(step)
        num_left_out += sum(int(((step_weights[n] == 0) & (before[n] != 0)).sum()) for n in before)
    trials = 500 * num_active
    assert abs(num_left_out / trials - 0.1) < 4 * math.sqrt(0.1 * 0.9 / trials)


def test_scaling_keeps_the_mean_of_every_weight() -> None:
    """At a half, 2 Z w has a standard deviation of |w|."""
    held = applied(SparseState(masks()), drop=0.5, scaled=True)
    before, total = standing(held)["hidden"], torch.zeros(SHAPES["hidden"])
    for step in range(500):
        total += held.sample(step)["hidden"]
    error = (total / 500 - before).abs()
    assert bool((error <= 5 * before.abs() / math.sqrt(500)).all())


def test_the_random_mask_is_no_part_of_the_density() -> None:
    held = applied(SparseState(masks()), drop=0.25)
    with held.step_weights(0):
        assert all(torch.equal(mask, masks()[name]) for name, mask in held.state.used.items())


def test_an_update_sees_all_weights() -> None:
    held = applied(SparseState(masks()), drop=0.25, stream_of=lambda step: None)
    assert all(torch.equal(held.sample(0)[name], weight) for name, weight in standing(held).items())
    assert all(torch.equal(g, tensors(5)[name]) for name, g in gradients_in_step(held, tensors(5), 0).items())


def test_without_dropout_and_narrower_masks_a_step_touches_nothing() -> None:
    held = applied(SparseState(masks()))
    places = {name: weight.data_ptr() for name, weight in held.weights.items()}
    with held.step_weights(0):
        assert {name: weight.data_ptr() for name, weight in held.weights.items()} == places


def test_other_weights_of_the_layer_are_dropped_in_the_same_way() -> None:
    """As a gradient rule asks at an earlier snapshot, in the same step."""
    held = applied(SparseState(masks()), drop=0.25)
    own = held.sample(0)["hidden"] == 0
    other = nn.Parameter(tensors(7)["hidden"] * masks()["hidden"])
    held.weights["hidden"].data = other.data
    assert torch.equal(held.sample(0)["hidden"] == 0, own)
    assert torch.equal(held.weights["hidden"], other)


def test_narrower_masks_cut_the_weights_and_let_the_gradient_straight_through() -> None:
    narrow = {"hidden": masks()["hidden"] & masks(0.5, seed=3)["hidden"]}
    held = applied(SparseState(masks(), forward=narrow))
    before, slopes = standing(held), tensors(5)
    assert torch.equal(held.sample(0)["hidden"], before["hidden"] * narrow["hidden"])
    assert torch.equal(gradients_in_step(held, slopes, 0)["hidden"], slopes["hidden"])
    with held.final_weights():
        assert torch.equal(held.weights["hidden"], before["hidden"] * narrow["hidden"])
    assert torch.equal(held.weights["hidden"], before["hidden"])


def test_dropout_chooses_among_the_weights_that_the_network_computes_with() -> None:
    narrow = {"hidden": masks()["hidden"] & masks(0.5, seed=3)["hidden"]}
    held = applied(SparseState(masks(), forward=narrow), drop=0.25)
    before, step_weights = standing(held)["hidden"], held.sample(0)["hidden"]
    thinned = narrow["hidden"] & (step_weights == 0)
    assert bool(thinned.any())
    assert torch.equal(step_weights, torch.where(thinned, 0.0, before * narrow["hidden"]))
    found = gradients_in_step(held, tensors(5), 0)["hidden"]
    assert torch.equal(found, torch.where(thinned, 0.0, tensors(5)["hidden"]))


def test_weights_gradients_and_momentum_are_zero_outside_new_masks() -> None:
    weights = {name: nn.Parameter(tensor) for name, tensor in tensors(0).items()}
    optimizer = torch.optim.SGD(weights.values(), lr=0.1, momentum=0.9)
    for name, weight in weights.items():
        weight.grad = tensors(1)[name]
    optimizer.step()
    held = applied(SparseState(masks()), optimizer=optimizer, weights=weights)
    for name, mask in masks().items():
        momentum = optimizer.state[weights[name]]["momentum_buffer"]
        assert all(not tensor[~mask].any() for tensor in (weights[name], weights[name].grad, momentum))
        assert all(bool(tensor[mask].all()) for tensor in (weights[name], weights[name].grad, momentum))
    assert held.state.masks.keys() == SHAPES.keys()


def test_a_grown_weight_starts_at_zero_or_at_what_the_method_revives() -> None:
    """This holds where the random mask of a step had hidden it, too, and for any value before it was dropped."""
    small, large = masks(0.3), masks(0.6)
    grown = large["hidden"] & ~small["hidden"]
    revived = {"hidden": torch.where(grown, 7.0, 0.0)}
    for given, value in (({}, 0.0), (revived, 7.0)):
        held = applied(SparseState(small), drop=0.25)
        held.sample(0)
        before = standing(held)["hidden"]
        held.apply(SparseState(large, revived=given), torch.optim.SGD(held.weights.values(), lr=0.1))
        assert bool(grown.any())
        assert torch.equal(held.weights["hidden"], torch.where(grown, value, before))


def test_a_method_adds_a_weight_decay_of_its_own() -> None:
    held = applied(SparseState({}), method=Decaying())
    for name, weight in held.weights.items():
        weight.grad = tensors(1)[name]
    before = standing(held)
    held.add_extra_decay()
    assert torch.allclose(held.weights["head"].grad, tensors(1)["head"] + 0.5 * before["head"])
    assert torch.equal(held.weights["conv"].grad, tensors(1)["conv"])
