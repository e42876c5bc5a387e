"""A method that contains another one at some setting equals it there bit for bit."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import NO_NETWORK
from pruneyard.workloads.masks.masks import active_per_layer, hash_masks
from pruneyard.workloads.sparse.methods.granet import GraNet
from pruneyard.workloads.sparse.methods.itop import ITOP
from pruneyard.workloads.sparse.methods.magnitude import Magnitude
from pruneyard.workloads.sparse.methods.mest import MEST, Stages
from pruneyard.workloads.sparse.methods.one_shot import OneShot, lamp_scores
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.methods.snfs import SNFS
from pruneyard.workloads.sparse.methods.snip import SNIP
from pruneyard.workloads.sparse.update_schedule import CubicSchedule, LastingSchedule, UpdateSchedule
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext

SHAPES = {"a.weight": (12, 3, 3, 3), "b.weight": (30, 20), "c.weight": (10, 30)}
NUM_STEPS = 60


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int) -> dict[str, Tensor]:
    draws = generator(seed)
    return {name: torch.randn(shape, generator=draws) for name, shape in SHAPES.items()}


def moment(step: int, state: SparseState, **fields: Any) -> UpdateContext:
    weights = {n: w * state.masks[n] if n in state.masks else w for n, w in draw(step).items()}
    given: dict[str, Any] = {"weights": weights, "gradients": draw(1000 + step), "generator": generator(step)}
    return UpdateContext(step=step, num_steps=NUM_STEPS, **(given | fields), network=NO_NETWORK)


def hashes(method: MaskUpdater) -> list[str]:
    """Returns hashes of the masks after every step, in a training of `NUM_STEPS`."""
    state = method.start(draw(0), generator=generator())
    found = [hash_masks(state.masks)]
    for step in range(NUM_STEPS):
        state = method.observe_gradients(state, draw(1000 + step))
        if method.is_due(step, num_steps=NUM_STEPS):
            state = method.update(state, moment(step, state))
        found.append(hash_masks(state.masks))
    return found


@pytest.mark.parametrize(("growth", "known"), [("random", SET), ("gradient", RigL)])
def test_in_time_overparameterisation_is_set_or_rigl_on_another_schedule(
    growth: Literal["random", "gradient"], known: type[SET]
) -> None:
    fields: dict[str, Any] = {
        "density": 0.1,
        "drop_fraction": 0.5,
        "schedule": LastingSchedule(every=7, floor=0.1),
    }
    ours = ITOP(growth=growth, **fields)
    assert hashes(ours) == hashes(known(**fields))
    assert ours.grows_by_gradient == known.grows_by_gradient
    assert len(set(hashes(ours))) == 9  # first masks and updates at 7, 14, ... 56: to the end, none too small


def test_in_time_overparameterisation_moves_half_at_first_and_half_a_percent_at_last() -> None:
    # 1000 active of 2000, cosine from 0.5 to 0.005 over 1000 steps: half-way floor(0.2525 * 1000) = 252 move.
    method = ITOP(density=0.5, distribution="uniform", schedule=LastingSchedule(every=1))
    mask = torch.arange(2000) < 1000
    weights = {"w": torch.where(mask, 1.0 + torch.arange(2000.0), 0.0)}
    for step, num_moved in ((0, 500), (500, 252), (999, 5)):
        now = UpdateContext(
            step=step,
            num_steps=1000,
            weights=weights,
            gradients={"w": torch.arange(2000.0)},
            generator=generator(),
            network=NO_NETWORK,
        )
        after = method.update(SparseState({"w": mask}), now).masks["w"]
        assert int((after & ~mask).sum()) == int((mask & ~after).sum()) == num_moved
        assert bool(after[2000 - num_moved :].all())
        assert not after[:num_moved].any()


def test_connection_sensitivity_by_hand() -> None:
    # |w g|: a 2, 6, 0; b 5, 1. Over all layers 6 and 5 stay. Within layers at density 0.4 a keeps 6 and b keeps 5.
    weights = {"a": torch.tensor([[1.0, -2.0, 9.0]]), "b": torch.tensor([[0.5, 1.0]])}
    gradients = {"a": torch.tensor([[2.0, 3.0, 0.0]]), "b": torch.tensor([[-10.0, 1.0]])}
    for density, scope, a, b in (
        (0.4, "global", [False, True, False], [True, False]),
        (0.4, "layer", [False, True, False], [True, False]),
        (0.6, "global", [True, True, False], [True, False]),
    ):
        method = SNIP(density=density, distribution="uniform", scope=scope)  # type: ignore[arg-type]
        state = method.start(weights, generator=generator())
        now = UpdateContext(
            step=0, num_steps=9, weights=weights, gradients=gradients, generator=generator(), network=NO_NETWORK
        )
        masks = method.update(state, now).masks
        assert (masks["a"][0].tolist(), masks["b"][0].tolist()) == (a, b)


def test_connection_sensitivity_of_equal_gradients_is_magnitude_at_the_start() -> None:
    ones = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    snip, magnitude = SNIP(density=0.1), OneShot(density=0.1, prune_at=0.0)
    now = moment(0, SparseState({}), gradients=ones)
    found = [m.update(m.start(draw(0), generator=generator()), now).masks for m in (snip, magnitude)]
    assert hash_masks(found[0]) == hash_masks(found[1])
    assert [step for step in range(NUM_STEPS) if snip.is_due(step, num_steps=NUM_STEPS)] == [0]


def test_a_layer_that_sensitivity_would_empty_keeps_one_weight_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    method = SNIP(density=0.05)
    gradients = draw(1) | {"b.weight": 1e-9 * draw(1)["b.weight"]}
    masks = method.update(
        method.start(draw(0), generator=generator()), moment(0, SparseState({}), gradients=gradients)
    ).masks
    assert int(masks["b.weight"].sum()) == 1
    assert "left only one weight in b.weight" in caplog.text


@pytest.mark.parametrize(("ranking", "scope"), [("global", "global"), ("layer", "layer")])
def test_one_shot_is_gradual_pruning_that_begins_where_it_ends(
    ranking: Literal["global", "layer"], scope: Literal["global", "layer"]
) -> None:
    once = OneShot(density=0.1, prune_at=0.4, ranking=ranking)
    assert hashes(once) == hashes(
        Magnitude(density=0.1, scope=scope, schedule=CubicSchedule(begin=0.4, end=0.4))
    )
    assert len(set(hashes(once))) == 2


def test_layer_adaptive_scores_by_hand() -> None:
    # Squares 1, 4, 4, 16; sums of what is at least as large 25, 24, 24, 16. Zeros score zero, also alone.
    found = lamp_scores(torch.tensor([[1.0, -2.0], [2.0, 4.0]]))
    assert found.flatten().tolist() == pytest.approx([1 / 25, 4 / 24, 4 / 24, 1.0], rel=1e-15)
    assert lamp_scores(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_layer_adaptive_pruning_does_not_care_for_a_layers_scale() -> None:
    method = OneShot(density=0.1, prune_at=0.0, ranking="lamp")
    state = method.start(draw(0), generator=generator())
    scaled = {name: factor * w for factor, (name, w) in zip((1e-4, 1.0, 64.0), draw(0).items(), strict=True)}
    plain = method.update(state, moment(0, state, weights=draw(0))).masks
    assert hash_masks(method.update(state, moment(0, state, weights=scaled)).masks) == hash_masks(plain)
    magnitudes = OneShot(density=0.1, prune_at=0.0).update(state, moment(0, state, weights=scaled)).masks
    assert hash_masks(magnitudes) != hash_masks(plain)


def test_layer_adaptive_scores_rank_one_layer_as_magnitudes_do() -> None:
    weight = draw(0)["b.weight"]
    assert torch.equal(lamp_scores(weight).flatten().argsort(), weight.abs().flatten().argsort())


@each_case(
    ("method", "field", "value"),
    [
        (OneShot, "prune_at", 1.5),
        (OneShot, "ranking", "own"),
        (SNIP, "scope", "own"),
        (ITOP, "growth", "own"),
        (GraNet, "initial_density", 0.0),
        (GraNet, "prune_until", 1.1),
        (GraNet, "drop_fraction", -0.1),
        (MEST, "gradient_weight", -1.0),
        (SNFS, "drop_fraction", 1.1),
        (SNFS, "momentum", 1.0),
    ],
)
def test_a_field_out_of_range_is_refused_by_its_name(method: type, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is"):
        method(density=0.1, **{field: value})


@each_case(
    ("fields", "field"),
    [
        ({"every": 0}, "every"),
        ({"sizes": (0.1, 2.0), "milestones": (0.5,)}, "sizes"),
        ({"sizes": (0.1,)}, "sizes"),
        ({"milestones": (0.8, 0.2)}, "milestones"),
    ],
)
def test_stages_that_mean_nothing_are_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is"):
        Stages(**fields)


def test_regeneration_of_nothing_is_gradual_pruning_over_all_layers() -> None:
    ours = GraNet(
        density=0.1,
        initial_density=1.0,
        prune_until=0.7,
        drop_fraction=0.0,
        schedule=LastingSchedule(every=5),
    )
    known = Magnitude(density=0.1, scope="global", schedule=CubicSchedule(begin=0.0, end=0.7, every=5))
    assert hashes(ours) == hashes(known)


def test_regeneration_without_pruning_is_rigl() -> None:
    schedule = LastingSchedule(every=5)
    ours = GraNet(density=0.1, initial_density=0.1, drop_fraction=0.5, schedule=schedule)
    assert hashes(ours) == hashes(RigL(density=0.1, drop_fraction=0.5, schedule=schedule))


def test_pruning_then_regeneration_by_hand() -> None:
    # Density 0.8 to 0.2 of 10 by step 20 of 40. At step 10, 7/8 of the way: 8 - floor(7/8 * 6) = 3 stay, and
    # floor(0.5 * 0.85.. * 3) = 1 of them is dropped for the largest gradient outside.
    method = GraNet(
        density=0.2,
        distribution="uniform",
        initial_density=0.8,
        schedule=LastingSchedule(every=10),
    )
    weights = {"w": torch.tensor([8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0, 4.0, 0.0, 0.0])}
    gradients = {"w": torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, -9.0])}
    mask = torch.arange(10) < 8
    now = UpdateContext(
        step=10, num_steps=40, weights=weights, gradients=gradients, generator=generator(), network=NO_NETWORK
    )
    after = method.update(SparseState({"w": mask}), now).masks["w"]
    assert after.nonzero().flatten().tolist() == [0, 2, 9]  # 8, 7, 6 were largest; 6 leaves, -9 comes
    assert method.is_due(20, num_steps=40)
    last = UpdateContext(
        step=20, num_steps=40, weights=weights, gradients=gradients, generator=generator(), network=NO_NETWORK
    )
    assert int(method.update(SparseState({"w": mask}), last).masks["w"].sum()) == 2


def test_pruning_over_all_layers_moves_density_between_them() -> None:
    method = GraNet(density=0.2, drop_fraction=0.0, schedule=LastingSchedule(every=5))
    scale = {"a.weight": 10.0, "b.weight": 1.0, "c.weight": 0.1}
    state = method.start(draw(0), generator=generator())
    for step in range(NUM_STEPS):
        if method.is_due(step, num_steps=NUM_STEPS):
            weights = {name: scale[name] * w * state.masks[name] for name, w in draw(step).items()}
            state = method.update(state, moment(step, state, weights=weights))
    active = active_per_layer(state.masks)
    assert sum(active.values()) == sum(method.counts(draw(0)).values())
    assert active["a.weight"] > method.counts(draw(0))["a.weight"]
    assert active["c.weight"] < method.counts(draw(0))["c.weight"]


def test_mutation_in_one_stage_is_set_of_constant_size() -> None:
    # m of 0.02 at density 0.1 moves a fifth of what is active.
    ours = MEST(density=0.1, schedule=Stages(every=7, sizes=(0.02,), milestones=()))
    fixed = UpdateSchedule(every=7, until=1.0, decay="constant")
    assert hashes(ours) == hashes(SET(density=0.1, drop_fraction=0.02 / 0.1, schedule=fixed))


def test_mutations_shrink_in_stages_and_end() -> None:
    stages = Stages(every=5)
    sizes = [stages.size(step, num_steps=160) for step in (0, 89, 90, 119, 120, 159)]
    assert sizes == [0.02, 0.02, 0.01, 0.01, 0.0, 0.0]
    assert [step for step in range(160) if stages.is_due(step, num_steps=160)] == list(range(5, 120, 5))


def test_mutations_that_would_drop_every_weight_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^schedule has sizes .* below density 0\.02"):
        MEST(density=0.02)


def test_importance_counts_the_gradient_where_it_is_asked_to() -> None:
    # Of 0.1, 0.5, 0.9 one is dropped: by |w| the first, by |w| + |g| (1.1, 0.6, 0.9) the second.
    weights = {"w": torch.tensor([0.1, 0.5, 0.9, *[0.0] * 997])}
    gradients = {"w": torch.tensor([1.0, 0.1, 0.0, *[0.0] * 997])}
    state = SparseState({"w": torch.arange(1000) < 3})
    for weight, dropped in ((0.0, 0), (1.0, 1)):
        method = MEST(
            density=0.003, gradient_weight=weight, schedule=Stages(every=1, sizes=(0.001,), milestones=())
        )
        now = UpdateContext(
            step=1, num_steps=9, weights=weights, gradients=gradients, generator=generator(), network=NO_NETWORK
        )
        after = method.update(state, now).masks["w"]
        assert (state.masks["w"] & ~after).nonzero().flatten().tolist() == [dropped]


def test_momentum_of_one_step_without_redistribution_is_rigl() -> None:
    fields: dict[str, Any] = {"density": 0.1, "distribution": "erk", "schedule": UpdateSchedule(every=5)}
    ours = SNFS(momentum=0.0, redistribute=False, drop_fraction=0.4, **fields)
    assert hashes(ours) == hashes(RigL(drop_fraction=0.4, **fields))


def test_momentum_is_the_exponential_mean_of_dense_gradients() -> None:
    # From 0 with 0.9 kept: 0.1 * 2 = 0.2, then 0.9 * 0.2 + 0.1 * (-1) = 0.08, at an inactive weight as well.
    method = SNFS(density=0.5, momentum=0.9)
    state = SparseState({"w": torch.tensor([True, False])}, {"momentum/w": torch.zeros(2)})
    for gradient in (2.0, -1.0):
        state = method.observe_gradients(state, {"w": torch.full((2,), gradient)})
    assert state.tensors["momentum/w"].tolist() == pytest.approx([0.08, 0.08])
    assert state.masks["w"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("redistribute", "a", "b"), [(False, [0, 1, 8, 9], [0, 1]), (True, [0, 1, 7, 8, 9], [0])]
)
def test_redistribution_by_hand(redistribute: bool, a: list[int], b: list[int]) -> None:
    # a drops 2 of 4 and b 1 of 2. Mean |momentum| of what is active: a 8, b 1, so a grows 3 * 8/9 = 2.67 and b 0.33.
    method = SNFS(
        density=0.3,
        drop_fraction=0.5,
        redistribute=redistribute,
        schedule=UpdateSchedule(every=1, until=1.0, decay="constant"),
    )
    masks = {"a": torch.arange(10) < 4, "b": torch.arange(10) < 2}
    weights = {"a": masks["a"] * torch.arange(10.0, 0, -1), "b": masks["b"] * torch.arange(10.0, 0, -1)}
    momentum = {
        "momentum/a": torch.tensor([20.0, 10, -1, -1, 3, 4, 5, -6, 7, 8]),
        "momentum/b": torch.tensor([-1.0, 1.0, 0, 0, 0, 0, 0, 0, 0, 0]),
    }
    now = UpdateContext(step=1, num_steps=9, weights=weights, gradients={}, generator=generator(), network=NO_NETWORK)
    after = method.update(SparseState(masks, momentum), now).masks
    assert after["a"].nonzero().flatten().tolist() == a
    assert after["b"].nonzero().flatten().tolist() == b


def test_redistribution_fills_no_layer_and_empties_none() -> None:
    method = SNFS(density=0.3, drop_fraction=1.0, schedule=UpdateSchedule(every=1, until=1.0))
    state = method.start(draw(0), generator=generator())
    scale = {"a.weight": 1e6, "b.weight": 1.0, "c.weight": 0.0}
    for step in range(1, 20):
        state = method.observe_gradients(state, {name: scale[name] * g for name, g in draw(500 + step).items()})
        state = method.update(state, moment(step, state))
        active = active_per_layer(state.masks)
        assert sum(active.values()) == sum(method.counts(draw(0)).values())
        assert active["a.weight"] < state.masks["a.weight"].numel()
        assert min(active.values()) > 0


def test_momentum_that_is_not_finite_is_refused_by_the_layers_name() -> None:
    method = SNFS(density=0.3)
    broken = {name: torch.full(shape, torch.nan) for name, shape in SHAPES.items()}
    state = method.observe_gradients(method.start(draw(0), generator=generator()), broken)
    with pytest.raises(ValueError, match=r"scores of a\.weight"):
        method.update(state, moment(1, state))
