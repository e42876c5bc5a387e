"""DST-EE: its limits, and its score worked by hand."""

from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import NO_NETWORK
from pruneyard.workloads.masks.masks import hash_masks
from pruneyard.workloads.sparse.methods.dst_ee import DSTEE
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.mask_updater import SparseState, UpdateContext

SHAPES = {"a": (20, 30), "b": (40, 20)}
OFTEN = UpdateSchedule(every=1, until=1.0, decay="constant")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int) -> dict[str, Tensor]:
    draws = generator(seed)
    return {name: torch.randn(shape, generator=draws) for name, shape in SHAPES.items()}


def moment(state: SparseState, step: int, gradients: dict[str, Tensor], *, seed: int | None = None) -> UpdateContext:
    weights = {name: weight * state.masks[name] for name, weight in draw(step + 1).items()}
    draws = generator(step if seed is None else seed)
    return UpdateContext(
        step=step, num_steps=10**6, weights=weights, gradients=gradients, generator=draws, network=NO_NETWORK
    )


def scores(visits: Tensor, gradient: Tensor, *, step: int, **fields: Any) -> Tensor:
    state = SparseState({"w": visits > 0}, {"visits/w": visits.to(torch.int16)})
    now = UpdateContext(
        step=step,
        num_steps=10**6,
        weights={},
        gradients={"w": gradient},
        generator=generator(),
        network=NO_NETWORK,
    )
    return DSTEE(density=0.5, **fields).grow_scores("w", state, now)


def test_the_score_by_hand() -> None:
    # |g| + 0.5 ln(100) / (N + 1), ln 100 = 4.605170: N = 0 gives 2.302585, N = 1 half of it, N = 9 a tenth.
    found = scores(torch.tensor([0, 1, 9]), torch.tensor([-1.0, 2.0, 0.0]), step=100, exploration=0.5)
    assert found.tolist() == pytest.approx([3.302585, 3.1512925, 0.2302585])


def test_an_update_by_hand() -> None:
    # 0.3 is dropped. Of the candidates the third has the largest gradient, but was active twice:
    # scores 1 + ln(20) 0.5 / 3 = 1.499 against 0.2 + ln(20) 0.5 / 1 = 1.698 of the one never active.
    method = DSTEE(density=0.5, drop_fraction=0.5, schedule=OFTEN, exploration=0.5)
    mask = torch.tensor([True, True, False, False])
    state = SparseState({"w": mask}, {"visits/w": torch.tensor([3, 3, 2, 0], dtype=torch.int16)})
    now = UpdateContext(
        step=20,
        num_steps=100,
        weights={"w": torch.tensor([0.9, 0.3, 0.0, 0.0])},
        gradients={"w": torch.tensor([0.0, 0.0, 1.0, 0.2])},
        generator=generator(),
        network=NO_NETWORK,
    )
    after = method.update(state, now)
    assert after.masks["w"].tolist() == [True, False, False, True]
    assert after.tensors["visits/w"].tolist() == [4, 3, 2, 1]


@pytest.mark.parametrize("zeros", [False, True])
def test_without_exploration_the_masks_are_those_of_rigl_bit_for_bit(zeros: bool) -> None:
    fields: dict[str, Any] = {"density": 0.1, "drop_fraction": 0.4, "schedule": OFTEN}
    rigl, ours = RigL(**fields), DSTEE(**fields, exploration=0.0)
    first = rigl.start(draw(0), generator=generator())
    second = ours.start(draw(0), generator=generator())
    assert hash_masks(first.masks) == hash_masks(second.masks)
    for step in range(1, 40):
        gradients = {name: g * (not zeros) for name, g in draw(-step).items()}  # zeros: all ties, all drawn
        first = rigl.update(first, moment(first, step, gradients))
        second = ours.update(second, moment(second, step, gradients))
        assert hash_masks(first.masks) == hash_masks(second.masks)


def test_at_step_one_the_bonus_is_zero() -> None:
    gradient = torch.randn(50, generator=generator())
    visits = torch.arange(50)
    assert torch.equal(scores(visits, gradient, step=1, exploration=1e6), gradient.abs())


@each_case("scale", ["raw", "layer_mean"])
@each_case(("exploration", "zeros"), [(1e6, False), (1e-3, True)])
def test_exploration_alone_visits_the_least_visited_first(
    exploration: float, zeros: bool, scale: Literal["raw", "layer_mean"]
) -> None:
    """Large c, or no gradient at all: what grows has been active least, and the unvisited run out first."""
    method = DSTEE(
        density=0.1, drop_fraction=0.5, schedule=OFTEN, exploration=exploration, gradient_scale=scale
    )
    state = method.start(draw(0), generator=generator())
    ever = {name: mask.clone() for name, mask in state.masks.items()}
    for step in range(2, 60):
        gradients = {name: g * (not zeros) for name, g in draw(-step).items()}
        now = moment(state, step, gradients)
        after = method.update(state, now)
        for name, mask in after.masks.items():
            visits = state.tensors[f"visits/{name}"]
            num_active = int(mask.sum())
            kept = torch.zeros_like(mask).flatten()
            order = (
                now.weights[name].abs().masked_fill(~state.masks[name], -1).flatten().argsort(descending=True)
            )
            kept[order[: num_active - num_active // 2]] = True
            kept = kept.reshape(mask.shape)
            grown, left = mask & ~kept, ~mask & ~kept
            assert int(visits[grown].max()) <= int(visits[left].min())
            new = int((mask & ~ever[name]).sum())
            assert new == min(num_active // 2, int((~ever[name]).sum()))  # as fast as can be
            ever[name] |= mask
        state = after
    assert all(bool(seen.all()) for seen in ever.values())


@settings(deadline=None)
@given(
    st.integers(0, 1000), st.integers(0, 1000), st.integers(2, 10**6), st.integers(2, 10**6), st.floats(0, 10)
)
def test_the_score_falls_with_visits_and_rises_with_time(
    few: int, many: int, early: int, late: int, size: float
) -> None:
    few, many = sorted((few, many + 1001))
    early, late = sorted((early, late + 10**6))
    gradient = torch.tensor([size, size], dtype=torch.float64)
    at_first = scores(torch.tensor([few, many]), gradient, step=early, exploration=1.0)
    later = scores(torch.tensor([few, many]), gradient, step=late, exploration=1.0)
    assert at_first[0] > at_first[1]
    assert (later > at_first).all()


def test_every_update_adds_one_visit_to_each_active_weight_and_counters_saturate() -> None:
    method = DSTEE(density=0.1, schedule=OFTEN)
    state = method.start(draw(0), generator=generator())
    assert all(torch.equal(state.tensors[f"visits/{n}"] > 0, mask) for n, mask in state.masks.items())
    for step in range(1, 10):
        after = method.update(state, moment(state, step, draw(-step)))
        for name, mask in after.masks.items():
            difference = after.tensors[f"visits/{name}"] - state.tensors[f"visits/{name}"]
            assert torch.equal(difference, mask.to(torch.int16))
        state = after
    full = {key: torch.full_like(visits, 32_767) for key, visits in state.tensors.items() if key.startswith("visits/")}
    after = method.update(SparseState(state.masks, full), moment(state, 10, draw(-10)))
    assert all(torch.equal(after.tensors[key], visits) for key, visits in full.items())
    assert all(after.tensors[key].dtype == torch.int16 for key in full)


def test_the_normalised_variant_does_not_care_for_the_gradients_scale() -> None:
    gradient = torch.randn(50, generator=generator(), dtype=torch.float64)
    visits = torch.arange(50)
    small, large = (
        scores(visits, factor * gradient, step=9, exploration=0.1, gradient_scale="layer_mean")
        for factor in (1e-6, 1e3)
    )
    assert torch.allclose(small, large, rtol=1e-12)


@each_case(
    ("field", "value"),
    [("exploration", -1.0), ("exploration", float("nan")), ("epsilon", 0.0), ("gradient_scale", "own")],
)
def test_fields_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is"):
        DSTEE(density=0.1, **{field: value})  # type: ignore[arg-type]
