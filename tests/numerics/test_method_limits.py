"""Methods that contain another one at some setting are that one there, bit for bit."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from workloads.sparse.masks import hash_masks
from workloads.sparse.methods.itop import ITOP
from workloads.sparse.methods.rigl import RigL
from workloads.sparse.methods.set import SET
from workloads.sparse.schedules import LastingSchedule
from workloads.sparse.updater import MaskUpdater, Moment, SparseState

SHAPES = {"a.weight": (12, 3, 3, 3), "b.weight": (30, 20), "c.weight": (10, 30)}
NUM_STEPS = 60


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int) -> dict[str, Tensor]:
    draws = generator(seed)
    return {name: torch.randn(shape, generator=draws) for name, shape in SHAPES.items()}


def moment(step: int, state: SparseState, **fields: Any) -> Moment:
    weights = {n: w * state.masks[n] if n in state.masks else w for n, w in draw(step).items()}
    given: dict[str, Any] = {"weights": weights, "gradients": draw(1000 + step), "generator": generator(step)}
    return Moment(step=step, num_steps=NUM_STEPS, **(given | fields))


def hashes(method: MaskUpdater) -> list[str]:
    """Of the masks after every step, in a training of `NUM_STEPS`."""
    state = method.start(draw(0), generator=generator())
    found = [hash_masks(state.masks)]
    for step in range(NUM_STEPS):
        state = method.follow(state, draw(1000 + step))
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
        now = Moment(
            step=step,
            num_steps=1000,
            weights=weights,
            gradients={"w": torch.arange(2000.0)},
            generator=generator(),
        )
        after = method.update(SparseState({"w": mask}), now).masks["w"]
        assert int((after & ~mask).sum()) == int((mask & ~after).sum()) == num_moved
        assert bool(after[2000 - num_moved :].all())
        assert not after[:num_moved].any()
