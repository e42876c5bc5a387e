"""AC/DC: its phases worked by hand, its limits, and the state of a dropped weight that is trained again."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import NO_NETWORK
from pruneyard.workloads.checkpoint import Checkpoint, CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.masks.masks import active_per_layer, hash_masks
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.sparse.methods.acdc import ACDC
from pruneyard.workloads.sparse.methods.one_shot import OneShot
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

SHAPES = {"a.weight": (12, 3, 3, 3), "b.weight": (30, 20), "c.weight": (10, 30)}
IMAGENET = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.85)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int) -> dict[str, Tensor]:
    draws = generator(seed)
    return {name: torch.randn(shape, generator=draws) for name, shape in SHAPES.items()}


def moment(step: int, state: SparseState, *, num_steps: int) -> UpdateContext:
    weights = {name: weight * state.masks[name] for name, weight in draw(step).items()}
    return UpdateContext(
        step=step,
        num_steps=num_steps,
        weights=weights,
        gradients={},
        generator=generator(step),
        network=NO_NETWORK,
    )


def states(method: MaskUpdater, num_steps: int) -> list[SparseState]:
    """Returns the states after every step's update."""
    state = method.start(draw(0), generator=generator())
    found = []
    for step in range(num_steps):
        if method.is_due(step, num_steps=num_steps):
            state = method.update(state, moment(step, state, num_steps=num_steps))
        found.append(state)
    return found


def sparse_steps(method: ACDC, num_steps: int) -> list[int]:
    return [step for step in range(num_steps) if method.is_sparse(step, num_steps=num_steps)]


def test_published_schedules_epoch_by_epoch() -> None:
    cifar = [
        e for begin, end in ((10, 30), (50, 70), (90, 110), (130, 150), (170, 200)) for e in range(begin, end)
    ]
    assert sparse_steps(ACDC(density=0.1), 200) == cifar
    imagenet = [e for begin in range(10, 80, 10) for e in range(begin, min(begin + 5, 75))] + list(
        range(85, 100)
    )
    assert sparse_steps(ACDC(density=0.1, phase_boundaries=IMAGENET), 100) == imagenet


@each_case("num_steps", [1, 2, 3, 7, 14, 40, 1000])
def test_it_ends_sparse_and_each_update_changes_the_phase_in_any_budget(num_steps: int) -> None:
    method = ACDC(density=0.1)
    phases = [method.is_sparse(step, num_steps=num_steps) for step in range(num_steps)]
    assert phases[-1]
    due = [method.is_due(step, num_steps=num_steps) for step in range(num_steps)]
    assert due == [now != before for before, now in zip([False, *phases[:-1]], phases, strict=True)]


def test_masks_are_the_largest_weights_or_all_of_them() -> None:
    method, num_steps = ACDC(density=0.1), 60
    total = sum(method.counts(draw(0)).values())
    for step, state in enumerate(states(method, num_steps)):
        active = sum(active_per_layer(state.masks).values())
        assert active == (total if method.is_sparse(step, num_steps=num_steps) else 12 * 27 + 600 + 300)


def test_weights_dropped_are_trained_again_and_others_may_stay_at_the_next_compression_by_hand() -> None:
    # Half of (4, -3, 2, 1) are 4 and -3. All go on; from 4, -1 and the restarted 5, 0 the half left is 4 and 5.
    method = ACDC(density=0.5, phase_boundaries=(0.0, 0.3, 0.6))
    state = method.start({"w": torch.ones(1, 4)}, generator=generator())
    found = []
    for step, row in ((0, [4.0, -3.0, 2.0, 1.0]), (3, [4.0, -2.0, 0.0, 0.0]), (6, [4.0, -1.0, 5.0, 0.0])):
        assert method.is_due(step, num_steps=10)
        now = UpdateContext(
            step=step,
            num_steps=10,
            weights={"w": torch.tensor([row])},
            gradients={},
            generator=generator(),
            network=NO_NETWORK,
        )
        state = method.update(state, now)
        found.append(state.masks["w"][0].tolist())
    assert found == [[True, True, False, False], [True] * 4, [True, False, True, False]]


@pytest.mark.parametrize(("scope", "ranking"), [("global", "global"), ("layer", "layer")])
def test_one_change_is_one_shot_pruning(scope: str, ranking: str) -> None:
    ours = ACDC(density=0.1, phase_boundaries=(0.4,), scope=scope)  # type: ignore[arg-type]
    known = OneShot(density=0.1, prune_at=0.4, ranking=ranking)  # type: ignore[arg-type]
    one, other = states(ours, 50), states(known, 50)
    assert [hash_masks(state.masks) for state in one] == [hash_masks(state.masks) for state in other]


def test_what_was_dropped_comes_back_as_zero_and_is_trained_again(tmp_path: Path) -> None:
    # Six steps: pruned at step 0, all trained again from after step 2 on, pruned at step 5.
    method = ACDC(density=0.2, phase_boundaries=(0.0, 0.4, 0.9))
    recipe = Recipe(budget=Budget(steps=6, batch_size=32, checkpoint_every_s=0))
    context = Context(checkpoints=CheckpointFolder(tmp_path / "run", keep=6))
    list(train(recipe, model=Mlp(), method=method, data=Digits(max_train=64).load(), seed=0, context=context))
    after = {step: saved(tmp_path / "run", step, tmp_path / str(step)) for step in (2, 3, 4, 6)}
    layer = next(key for key in after[2].tensors if key.startswith("mask/")).removeprefix("mask/")
    masks = {step: point.tensors[f"mask/{layer}"] for step, point in after.items()}
    dropped = ~masks[2]
    assert dropped.any()
    assert masks[3].all()
    assert masks[4].all()
    assert (
        not after[3].tensors[f"network/{layer}"][dropped].any()
    )  # the step of the change does not move them yet
    moved = after[4].tensors[f"network/{layer}"][dropped]
    assert moved.count_nonzero() > 0.5 * moved.numel()
    assert (~masks[6]).any()


def saved(folder: Path, step: int, scratch: Path) -> Checkpoint:
    """Returns one of the checkpoints of a run."""
    scratch.mkdir()
    (scratch / f"step-{step:09d}").symlink_to(folder / f"step-{step:09d}")
    found = CheckpointFolder(scratch).load(torch.device("cpu"))
    assert found is not None
    return found


@each_case(
    ("field", "value"),
    [
        ("phase_boundaries", (0.1, 0.2)),
        ("phase_boundaries", ()),
        ("phase_boundaries", (0.2, 0.1, 0.3)),
        ("phase_boundaries", (0.5, 0.6, 1.0)),
        ("phase_boundaries", (-0.1,)),
        ("scope", "own"),
    ],
)
def test_a_field_out_of_range_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is"):
        ACDC(density=0.1, **{field: value})  # type: ignore[arg-type]
