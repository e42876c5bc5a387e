"""Rules that every sparse-training method must keep. Members are found by their files."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.four_layer_network import SHAPES, channel_permutations, functional_network_at
from pruneyard.testing.plug_in import build as build_plugin
from pruneyard.workloads.masks.distributions import active_counts
from pruneyard.workloads.masks.masks import active_per_layer, hash_masks
from pruneyard.workloads.masks.sparse_index import is_full
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
        schedule = dataclasses.replace(built.schedule, every=EVERY)  # type: ignore[attr-defined]
        built = dataclasses.replace(built, schedule=schedule)  # type: ignore[type-var]
    if "every" in own and "every" not in fields:
        built = dataclasses.replace(built, every=EVERY)  # type: ignore[type-var]
    return built


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors(seed: int) -> dict[str, Tensor]:
    rng = generator(seed)
    values = {name: torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}
    values["zeta.weight"] = values["zeta.weight"].to(
        memory_format=torch.channels_last
    )  # a layout changes nothing
    return values


def masked(weights: dict[str, Tensor], state: SparseState) -> dict[str, Tensor]:
    return {n: w * state.masks[n] if n in state.masks else w for n, w in weights.items()}


def update_context(step: int, state: SparseState, **fields: Any) -> UpdateContext:
    """Returns a possible context of an update: random weights that are zero outside masks, and random gradients."""
    weights = fields.get("weights", masked(tensors(step), state))
    given = {"weights": weights, "gradients": tensors(NUM_STEPS + step), "network": functional_network_at(weights)}
    return UpdateContext(step=step, num_steps=NUM_STEPS, **({"generator": generator(step)} | given | fields))


def due_steps(method: MaskUpdater) -> list[int]:
    return [step for step in range(NUM_STEPS) if method.is_due(step, num_steps=NUM_STEPS)]


def advance(method: MaskUpdater, state: SparseState, steps: list[int]) -> SparseState:
    for step in steps:
        state = method.update(observe(method, state, step), update_context(step, state))
    return state


def observe(method: MaskUpdater, state: SparseState, step: int) -> SparseState:
    """Returns the state before an update, after the method has observed the gradients of the step where it follows them."""
    return method.observe_gradients(state, tensors(NUM_STEPS + step)) if method.follows_gradient else state


def flatten(state: SparseState) -> dict[str, Tensor]:
    """Returns the state as a checkpoint holds it: tensors by name, sorted."""
    groups = {"mask": state.masks, "tensor": state.tensors, "forward": state.forward}
    flat = {f"{group}/{name}": t.clone() for group, group_tensors in groups.items() for name, t in group_tensors.items()}
    return dict(sorted(flat.items()))


def unflatten(flat: dict[str, Tensor]) -> SparseState:
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
    """Counts the weights that the network computes with, in layers with masks."""
    return sum(active_per_layer(state.used).values())


def test_says_when_it_reads_gradients_and_replaces_a_step(name: str) -> None:
    method = build(name)
    assert isinstance(method.replaces_step, bool)
    assert isinstance(method.grows_by_gradient, bool)
    assert isinstance(method.follows_gradient, bool)


def test_masks_cover_weights_with_booleans_of_their_shape(name: str) -> None:
    method = build(name)
    state = method.start(tensors(0), generator=generator())
    for later_state in (state, advance(method, state, due_steps(method)[:1])):
        assert later_state.used.keys() <= SHAPES.keys()
        for key, mask in (*later_state.masks.items(), *later_state.forward.items()):
            assert mask.dtype == torch.bool
            assert mask.shape == SHAPES[key]
            assert mask.is_contiguous() or is_full(mask)


def test_computes_with_no_weight_that_is_not_trained(name: str) -> None:
    method = build(name)
    state = method.start(tensors(0), generator=generator())
    for later_state in (state, advance(method, state, due_steps(method)[:2])):
        for key in later_state.masks.keys() & later_state.forward.keys():
            assert not (later_state.forward[key] & ~later_state.masks[key]).any()


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
        return  # a dense method has no masks
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
        context = update_context(step, state)
        after = method.update(observe(method, state, step), context)
        for key, mask in after.masks.items():
            kept = mask & state.masks[key]
            assert torch.equal(context.weights[key] * mask, context.weights[key] * kept)
        state = after


def test_writes_into_nothing_it_is_given(name: str) -> None:
    method = build(name)
    weights = tensors(0)
    state = method.start(weights, generator=generator())
    assert all(torch.equal(weight, weights[key]) for key, weight in tensors(0).items())
    for step in due_steps(method):
        context, before = update_context(step, state), flatten(state)
        observed = observe(method, state, step)
        between = flatten(observed)
        after = method.update(observed, context)
        assert all(torch.equal(tensor, between[key]) for key, tensor in flatten(observed).items())
        assert flatten(state).keys() == before.keys()
        assert all(torch.equal(tensor, before[key]) for key, tensor in flatten(state).items())
        untouched = update_context(step, state)
        assert all(torch.equal(context.weights[key], untouched.weights[key]) for key in SHAPES)
        assert all(torch.equal(context.gradients[key], untouched.gradients[key]) for key in SHAPES)
        assert all(torch.equal(context.network.weights[key], untouched.weights[key]) for key in SHAPES)
        state = after


def test_the_same_generator_gives_the_same_masks_for_any_state_of_torchs_generator(name: str) -> None:
    method = build(name)
    runs = []
    for torch_seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed)
            before = torch.get_rng_state()
            state = method.start(tensors(0), generator=generator())
            runs.append(advance(method, state, due_steps(method)))
            assert torch.equal(torch.get_rng_state(), before)
    assert_same(*runs)


def test_a_restored_state_continues_as_the_saved_one(name: str) -> None:
    method = build(name)
    steps = due_steps(method)
    halfway = advance(method, method.start(tensors(0), generator=generator()), steps[: len(steps) // 2])
    restored = unflatten(flatten(halfway))
    remaining_steps = steps[len(steps) // 2 :]
    assert_same(advance(method, halfway, remaining_steps), advance(method, restored, remaining_steps))


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
    orders = channel_permutations()

    def permuted(tensors_by_name: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Permutes tensors like the weight in their name: `visits/zeta.weight` like `zeta.weight`. Counts stay as they are."""
        moved = {}
        for key, tensor in tensors_by_name.items():
            if tensor.ndim:
                outputs, inputs = orders[key.rpartition("/")[2]]
            moved[key] = tensor[outputs][:, inputs] if tensor.ndim else tensor
        return moved

    for step in due_steps(method):
        state = observe(method, state, step)
        context, rng = update_context(step, state), generator(step)
        after = method.update(state, dataclasses.replace(context, generator=rng))
        if not torch.equal(rng.get_state(), generator(step).get_state()):
            return  # a random method is equivariant in distribution only
        permuted_context = dataclasses.replace(
            context,
            weights=permuted(dict(context.weights)),
            gradients=permuted(dict(context.gradients)),
            network=functional_network_at(permuted(dict(context.weights))),
        )
        before = SparseState(permuted(state.masks), permuted(state.tensors), permuted(state.forward))
        permuted_state = method.update(before, permuted_context)
        assert hash_masks(permuted_state.masks) == hash_masks(permuted(after.masks))
        assert hash_masks(permuted_state.forward) == hash_masks(permuted(after.forward))
        state = after


def test_reads_gradients_only_if_it_says_so(name: str) -> None:
    method = build(name)
    steps = due_steps(method)
    if not steps:
        return
    state = method.start(tensors(0), generator=generator())
    if not method.grows_by_gradient:
        state = observe(method, state, steps[0])
        without_gradients = method.update(state, update_context(steps[0], state, gradients={}))
        assert_same(without_gradients, method.update(state, update_context(steps[0], state)))
        return
    invalid = tensors(1)
    invalid["alpha.weight"][0] = torch.nan
    with pytest.raises(ValueError, match=r"alpha\.weight"):
        method.update(state, update_context(steps[0], state, gradients=invalid))


def test_weights_that_are_not_finite_are_refused(name: str) -> None:
    method = build(name)
    steps = due_steps(method)
    if not steps:
        return
    state = observe(method, method.start(tensors(0), generator=generator()), steps[0])
    invalid = masked(tensors(0), state)
    invalid["zeta.weight"][:] = torch.inf
    with pytest.raises(ValueError, match=r"zeta\.weight"):
        method.update(state, update_context(steps[0], state, weights=invalid))


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

    def on_gpu(tensors_by_name: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: tensor.cuda() for key, tensor in tensors_by_name.items()}

    on_cpu = method.start(tensors(0), generator=generator())
    gpu = method.start(on_gpu(tensors(0)), generator=generator())
    for step in due_steps(method):
        on_cpu = observe(method, on_cpu, step)
        if method.follows_gradient:
            gpu = method.observe_gradients(gpu, on_gpu(tensors(NUM_STEPS + step)))
        context = update_context(step, on_cpu)
        gpu_context = dataclasses.replace(
            context,
            weights=on_gpu(dict(context.weights)),
            gradients=on_gpu(dict(context.gradients)),
            generator=generator(step),
            network=functional_network_at(on_gpu(dict(context.weights))),
        )
        on_cpu, gpu = method.update(on_cpu, context), method.update(gpu, gpu_context)
        assert all(mask.is_cuda for mask in gpu.used.values())
    assert hash_masks(on_cpu.masks) == hash_masks(gpu.masks)
    assert hash_masks(on_cpu.forward) == hash_masks(gpu.forward)
