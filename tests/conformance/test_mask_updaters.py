"""Rules that every sparse-training method must keep. Members are found by their files."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.four_layers import SHAPES, channel_orders, functional_network_at
from pruneyard.testing.plug_in import build as build_plugin
from pruneyard.workloads.masks.distributions import active_counts
from pruneyard.workloads.masks.masks import active_per_layer, hash_masks
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.sparse.updater import DropAndGrow
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext

FAMILY = "sparse.methods"
NUM_STEPS, EVERY = 1000, 100  # published intervals are up to 4000 steps long

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


def build(name: str, **fields: Any) -> MaskUpdater:
    """Returns the method with updates every `EVERY` steps or so; its other fields as given, where it has them."""
    built: MaskUpdater = build_plugin(FAMILY, name, **fields)
    own = {field.name for field in dataclasses.fields(built)}  # type: ignore[arg-type]
    if "schedule" in own and "schedule" not in fields and built.schedule.every > EVERY:  # type: ignore[attr-defined]
        often = dataclasses.replace(built.schedule, every=EVERY)  # type: ignore[attr-defined]
        built = dataclasses.replace(built, schedule=often)  # type: ignore[type-var]
    if "every" in own and "every" not in fields:
        built = dataclasses.replace(built, every=EVERY)  # type: ignore[type-var]
    return built


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors(seed: int) -> dict[str, Tensor]:
    draws = generator(seed)
    drawn = {name: torch.randn(shape, generator=draws) for name, shape in SHAPES.items()}
    drawn["zeta.weight"] = drawn["zeta.weight"].to(
        memory_format=torch.channels_last
    )  # a layout changes nothing
    return drawn


def masked(weights: dict[str, Tensor], state: SparseState) -> dict[str, Tensor]:
    return {n: w * state.masks[n] if n in state.masks else w for n, w in weights.items()}


def moment(step: int, state: SparseState, **fields: Any) -> UpdateContext:
    """What a training could be at a step: other weights and gradients at each, weights zero outside masks."""
    weights = fields.get("weights", masked(tensors(step), state))
    given = {"weights": weights, "gradients": tensors(NUM_STEPS + step), "network": functional_network_at(weights)}
    return UpdateContext(step=step, num_steps=NUM_STEPS, **({"generator": generator(step)} | given | fields))


def due_steps(method: MaskUpdater) -> list[int]:
    return [step for step in range(NUM_STEPS) if method.is_due(step, num_steps=NUM_STEPS)]


def advance(method: MaskUpdater, state: SparseState, steps: list[int]) -> SparseState:
    for step in steps:
        state = method.update(followed(method, state, step), moment(step, state))
    return state


def followed(method: MaskUpdater, state: SparseState, step: int) -> SparseState:
    """The state that an update meets: the gradients of its step have been shown to those who follow them."""
    return method.observe_gradients(state, tensors(NUM_STEPS + step)) if method.follows_gradient else state


def as_one_mapping(state: SparseState) -> dict[str, Tensor]:
    """The state as a checkpoint holds it: named tensors, in no order of ours."""
    groups = {"mask": state.masks, "tensor": state.tensors, "forward": state.forward}
    flat = {f"{group}/{name}": t.clone() for group, held in groups.items() for name, t in held.items()}
    return dict(sorted(flat.items()))


def from_one_mapping(flat: dict[str, Tensor]) -> SparseState:
    def group(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}

    return SparseState(masks=group("mask/"), tensors=group("tensor/"), forward=group("forward/"))


def assert_same(first: SparseState, second: SparseState) -> None:
    assert hash_masks(first.masks) == hash_masks(second.masks)
    assert hash_masks(first.forward) == hash_masks(second.forward)
    for one, other in ((first.tensors, second.tensors), (first.revived, second.revived)):
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def num_used(state: SparseState) -> int:
    """Weights that the network computes with, of layers with masks."""
    return sum(active_per_layer(state.used).values())


def test_says_when_it_reads_gradients_and_replaces_a_step(name: str) -> None:
    method = build(name)
    assert isinstance(method.replaces_step, bool)
    assert isinstance(method.grows_by_gradient, bool)
    assert isinstance(method.follows_gradient, bool)


def test_masks_cover_weights_with_booleans_of_their_shape(name: str) -> None:
    method = build(name)
    state = method.start(tensors(0), generator=generator())
    for held in (state, advance(method, state, due_steps(method)[:1])):
        assert held.used.keys() <= SHAPES.keys()
        for key, mask in (*held.masks.items(), *held.forward.items()):
            assert mask.dtype == torch.bool
            assert mask.shape == SHAPES[key]
            assert mask.is_contiguous()


def test_computes_with_no_weight_that_is_not_trained(name: str) -> None:
    method = build(name)
    state = method.start(tensors(0), generator=generator())
    for held in (state, advance(method, state, due_steps(method)[:2])):
        for key in held.masks.keys() & held.forward.keys():
            assert not (held.forward[key] & ~held.masks[key]).any()


def test_revives_only_weights_that_enter_a_mask(name: str) -> None:
    method = build(name)
    state = method.start(tensors(0), generator=generator())
    assert not state.revived
    for step in due_steps(method):
        after = advance(method, state, [step])
        for key, values in after.revived.items():
            assert values.shape == SHAPES[key]
            assert not values[~after.masks[key] | state.masks[key]].any()
        state = after


def test_ends_at_its_target_density_exactly(name: str) -> None:
    method = build(name)
    state = advance(method, method.start(tensors(0), generator=generator()), due_steps(method))
    num_weights = sum(torch.Size(shape).numel() for shape in SHAPES.values())
    unmasked = sum(torch.Size(shape).numel() for key, shape in SHAPES.items() if key not in state.used)
    num_active = num_used(state) + unmasked
    assert num_active == round(method.target_density * num_weights)


def test_layers_kept_dense_have_no_mask_and_do_not_count(name: str) -> None:
    method = build(name, keep_dense=("first", "head"))
    state = advance(method, method.start(tensors(0), generator=generator()), due_steps(method))
    if not state.used:
        return  # dense all over
    assert state.used.keys() == {"zeta.weight", "alpha.weight"}
    assert state.masks.keys() <= state.used.keys()
    expected = active_counts(
        {key: SHAPES[key] for key in state.used}, density=method.target_density, rule="erk"
    )
    assert num_used(state) == sum(expected.values())


def test_the_number_of_active_weights_never_rises_but_back_to_what_it_was_at_the_start(name: str) -> None:
    method = build(name)
    state = first = method.start(tensors(0), generator=generator())
    for step in due_steps(method):
        after = advance(method, state, [step])
        assert num_used(after) <= num_used(state) or num_used(after) == num_used(first)
        assert all(count > 0 for count in active_per_layer(after.used).values())
        state = after


def test_moving_masks_keeps_the_active_weights_of_every_layer(name: str) -> None:
    method = build(name)
    if not isinstance(method, DropAndGrow):
        pytest.skip("is not a DropAndGrow, which moves a fixed number of weights")
    state = method.start(tensors(0), generator=generator())
    for step in due_steps(method):
        after = advance(method, state, [step])
        assert active_per_layer(after.masks) == active_per_layer(state.masks)
        fraction = method.drop_fraction * method.schedule.factor(step, num_steps=NUM_STEPS)
        for key, mask in after.masks.items():
            assert int((mask & ~state.masks[key]).sum()) <= fraction * int(mask.sum())
        state = after


def test_growing_alone_keeps_the_effective_weights_bit_equal(name: str) -> None:
    method = build(name)
    state = method.start(tensors(0), generator=generator())
    for step in due_steps(method):
        now = moment(step, state)
        after = method.update(followed(method, state, step), now)
        for key, mask in after.masks.items():
            kept = mask & state.masks[key]
            assert torch.equal(now.weights[key] * mask, now.weights[key] * kept)
        state = after


def test_writes_into_nothing_it_is_given(name: str) -> None:
    method = build(name)
    weights = tensors(0)
    state = method.start(weights, generator=generator())
    assert all(torch.equal(weight, weights[key]) for key, weight in tensors(0).items())
    for step in due_steps(method):
        now, before = moment(step, state), as_one_mapping(state)
        seen = followed(method, state, step)
        between = as_one_mapping(seen)
        after = method.update(seen, now)
        assert all(torch.equal(tensor, between[key]) for key, tensor in as_one_mapping(seen).items())
        assert as_one_mapping(state).keys() == before.keys()
        assert all(torch.equal(tensor, before[key]) for key, tensor in as_one_mapping(state).items())
        untouched = moment(step, state)
        assert all(torch.equal(now.weights[key], untouched.weights[key]) for key in SHAPES)
        assert all(torch.equal(now.gradients[key], untouched.gradients[key]) for key in SHAPES)
        assert all(torch.equal(now.network.weights[key], untouched.weights[key]) for key in SHAPES)
        state = after


def test_the_same_generator_gives_the_same_masks_for_any_state_of_torchs_generator(name: str) -> None:
    method = build(name)
    runs = []
    for elsewhere in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(elsewhere)
            before = torch.get_rng_state()
            state = method.start(tensors(0), generator=generator())
            runs.append(advance(method, state, due_steps(method)))
            assert torch.equal(torch.get_rng_state(), before)
    assert_same(*runs)


def test_a_restored_state_continues_as_the_saved_one(name: str) -> None:
    method = build(name)
    steps = due_steps(method)
    half = advance(method, method.start(tensors(0), generator=generator()), steps[: len(steps) // 2])
    restored = from_one_mapping(as_one_mapping(half))
    rest = steps[len(steps) // 2 :]
    assert_same(advance(method, half, rest), advance(method, restored, rest))


def test_density_one_is_dense_training(name: str) -> None:
    method = build(name, **find(FAMILY, name).dense_settings)
    state = method.start(tensors(0), generator=generator())
    assert method.target_density == 1
    assert all(bool(mask.all()) for mask in state.used.values())
    assert due_steps(method) == []


def test_nothing_is_due_where_nothing_can_move(name: str) -> None:
    method = build(name)
    if not isinstance(method, DropAndGrow):
        pytest.skip("is not a DropAndGrow, so it has no drop_fraction")
    never = dataclasses.replace(method.schedule, until=0.0)
    rare = dataclasses.replace(method.schedule, every=NUM_STEPS)
    assert due_steps(build(name, drop_fraction=0.0)) == []
    assert due_steps(build(name, schedule=never)) == due_steps(build(name, schedule=rare)) == []


def test_permuting_output_channels_commutes_where_nothing_is_drawn(name: str) -> None:
    method = build(name)
    state = method.start(tensors(0), generator=generator())
    orders = channel_orders()

    def permuted(held: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is named after a weight moves with it: `visits/zeta.weight` as `zeta.weight` does."""
        moved = {}
        for key, tensor in held.items():
            outputs, inputs = orders[key.rpartition("/")[2]]
            moved[key] = tensor[outputs][:, inputs]
        return moved

    for step in due_steps(method):
        state = followed(method, state, step)
        now, draws = moment(step, state), generator(step)
        after = method.update(state, dataclasses.replace(now, generator=draws))
        if not torch.equal(draws.get_state(), generator(step).get_state()):
            return  # random by design: the same in distribution only
        there = dataclasses.replace(
            now,
            weights=permuted(dict(now.weights)),
            gradients=permuted(dict(now.gradients)),
            network=functional_network_at(permuted(dict(now.weights))),
        )
        before = SparseState(permuted(state.masks), permuted(state.tensors), permuted(state.forward))
        moved = method.update(before, there)
        assert hash_masks(moved.masks) == hash_masks(permuted(after.masks))
        assert hash_masks(moved.forward) == hash_masks(permuted(after.forward))
        state = after


def test_reads_gradients_only_if_it_says_so(name: str) -> None:
    method = build(name)
    steps = due_steps(method)
    if not steps:
        return
    state = method.start(tensors(0), generator=generator())
    if not method.grows_by_gradient:
        state = followed(method, state, steps[0])
        blind = method.update(state, moment(steps[0], state, gradients={}))
        assert_same(blind, method.update(state, moment(steps[0], state)))
        return
    broken = tensors(1)
    broken["alpha.weight"][0] = torch.nan
    with pytest.raises(ValueError, match=r"alpha\.weight"):
        method.update(state, moment(steps[0], state, gradients=broken))


def test_weights_that_are_not_finite_are_refused(name: str) -> None:
    method = build(name)
    steps = due_steps(method)
    if not steps:
        return
    state = followed(method, method.start(tensors(0), generator=generator()), steps[0])
    broken = masked(tensors(0), state)
    broken["zeta.weight"][:] = torch.inf
    with pytest.raises(ValueError, match=r"zeta\.weight"):
        method.update(state, moment(steps[0], state, weights=broken))


@each_case("density", [0.0, -0.1, 1.1, float("nan")])
def test_a_density_outside_its_range_is_refused(name: str, density: float) -> None:
    if "density" not in {field.name for field in dataclasses.fields(find(FAMILY, name))}:
        return
    with pytest.raises(ValueError, match=r"^density is"):
        build(name, density=density)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_holds_the_masks_of_a_cpu(name: str) -> None:
    method = build(name)

    def there(held: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: tensor.cuda() for key, tensor in held.items()}

    here = method.start(tensors(0), generator=generator())
    gpu = method.start(there(tensors(0)), generator=generator())
    for step in due_steps(method):
        here = followed(method, here, step)
        if method.follows_gradient:
            gpu = method.observe_gradients(gpu, there(tensors(NUM_STEPS + step)))
        now = moment(step, here)
        away = dataclasses.replace(
            now,
            weights=there(dict(now.weights)),
            gradients=there(dict(now.gradients)),
            generator=generator(step),
            network=functional_network_at(there(dict(now.weights))),
        )
        here, gpu = method.update(here, now), method.update(gpu, away)
        assert all(mask.is_cuda for mask in gpu.used.values())
    assert hash_masks(here.masks) == hash_masks(gpu.masks)
    assert hash_masks(here.forward) == hash_masks(gpu.forward)
