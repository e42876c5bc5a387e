"""Methods that set parts of the recipe: what they fill in, what they refuse, and their limits."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.trainings import (
    SEED,
    BatchNormMlp,
    assert_same_numbers,
    digits,
    outcome,
    recipe_of,
    run,
)
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.metrics.classification import class_probabilities
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.objectives.unknown_aware import UnknownAware
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.sparse.methods.cigl import CigL
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.moon import MOON
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training import state as training_module
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.training.recipe import Recipe
from pruneyard.workloads.training.weight_averaging import Averaging
from pruneyard.workloads.training.weight_dropout import WeightDropout
from pruneyard.workloads.workload import Outcome, Progress

OFTEN = {"density": 0.2, "schedule": UpdateSchedule(every=2, until=0.6)}
HALF = Averaging(begin=0.6, per_epoch=2)


def cigl(**fields: Any) -> CigL:
    return CigL(**(OFTEN | {"weight_dropout": 0.1, "average_from": 0.6, "averages_per_epoch": 2} | fields))


def moon(**fields: Any) -> MOON:
    return MOON(**(OFTEN | {"average_from": 0.6, "loss": UnknownAware(warmup_epochs=1)} | fields))


def weights_of(progress: list[Progress]) -> dict[str, Tensor]:
    return dict(outcome(progress).weights)


def test_cigl_fills_in_weight_dropout_and_average() -> None:
    recipe = cigl(scaled=True, exclude_last=False).complete(recipe_of())
    assert recipe.weight_dropout == WeightDropout(drop=0.1, scaled=True, exclude_last=False)
    assert recipe.average == HALF
    assert dataclasses.replace(recipe, weight_dropout=WeightDropout(), average=Averaging()) == recipe_of()


def test_cigl_has_the_released_share_and_window_by_default() -> None:
    recipe = CigL(density=0.1).complete(recipe_of())
    assert (recipe.weight_dropout.drop, recipe.weight_dropout.scaled) == (0.01, False)
    assert (recipe.average.begin, recipe.average.per_epoch) == (0.8, 1)


def test_moon_fills_in_its_loss_too() -> None:
    recipe = moon(loss=UnknownAware(weight=0.5)).complete(recipe_of())
    assert recipe.objective == UnknownAware(weight=0.5)
    assert (recipe.weight_dropout.drop, recipe.average.per_epoch) == (0.01, 10)


@pytest.mark.parametrize("method", [cigl(), moon()], ids=["cigl", "moon"])
def test_completing_twice_is_completing_once(method: MaskUpdater) -> None:
    once = method.complete(recipe_of())
    assert method.complete(once) == once


@each_case(
    ("method", "by_hand"),
    [
        (cigl(), {"weight_dropout": WeightDropout(drop=0.2)}),
        (cigl(), {"average": Averaging(begin=0.5)}),
        (moon(), {"average": Averaging(begin=0.5)}),
        (moon(), {"objective": CrossEntropy(label_smoothing=0.1)}),
        (moon(), {"objective": UnknownAware(weight=9.0)}),
    ],
)
def test_recipe_settings_that_the_method_sets_are_refused(method: MaskUpdater, by_hand: dict[str, Any]) -> None:
    (name,) = by_hand
    with pytest.raises(ValueError, match=rf"^{name} is .* but the method sets it to"):
        method.complete(recipe_of(**by_hand))


@each_case(
    ("fields", "words"),
    [
        ({"weight_dropout": 1.0}, r"^weight_dropout is"),
        ({"averages_per_epoch": 0}, r"^averages_per_epoch is"),
        ({"average_from": 0.5}, r"^average_from is 0.5; it must lie in \[0.6, 1\]"),
        ({"average_from": 1.1}, r"^average_from is"),
    ],
)
@each_case("build", [cigl, moon])
def test_values_outside_their_range_are_refused(build: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(**fields)


def test_masks_are_constant_when_averaging_begins_at_their_last_update() -> None:
    """`until` equal to `average_from`: every budget has its last update before the first sample."""
    for num_steps in range(1, 400):
        method, average = cigl(), cigl().complete(recipe_of()).average
        due = [step for step in range(num_steps) if method.is_due(step, num_steps=num_steps)]
        assert not due or due[-1] < average.first(num_steps)


def test_cigl_without_random_mask_and_average_is_rigl(tmp_path: Path) -> None:
    ours = run(cigl(weight_dropout=0.0, average_from=1.0), tmp_path / "ours")
    assert_same_numbers(ours, run(RigL(**OFTEN), tmp_path / "rigl"))


def test_cigl_without_random_mask_is_rigl_under_weight_averaging(tmp_path: Path) -> None:
    swa = run(RigL(**OFTEN), tmp_path / "swa", recipe_of(average=HALF))
    assert_same_numbers(run(cigl(weight_dropout=0.0), tmp_path / "ours"), swa)


def test_cigl_without_average_is_rigl_under_weight_dropout(tmp_path: Path) -> None:
    dropout = run(RigL(**OFTEN), tmp_path / "dropout", recipe_of(weight_dropout=WeightDropout(drop=0.1)))
    assert_same_numbers(run(cigl(average_from=1.0), tmp_path / "ours"), dropout)


def test_cigl_at_density_one_without_average_is_weight_dropout(tmp_path: Path) -> None:
    ours = weights_of(run(cigl(density=1.0, average_from=1.0), tmp_path / "ours"))
    dropout = recipe_of(weight_dropout=WeightDropout(drop=0.1))
    theirs = weights_of(run(Dense(), tmp_path / "dropout", dropout))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    plain = weights_of(run(Dense(), tmp_path / "plain"))
    assert not torch.equal(plain["1.weight"], theirs["1.weight"])


def test_the_mean_stays_within_the_final_masks_and_fills_them_with_enough_samples(tmp_path: Path) -> None:
    """Of one sample a random half is missing; of a whole epoch's six, one in 64."""
    found = {}
    for per_epoch, begin in {1: 17 / 18, 6: 12 / 18}.items():
        method = cigl(weight_dropout=0.5, average_from=begin, averages_per_epoch=per_epoch)
        finished = outcome(run(method, tmp_path / str(per_epoch)))
        for name, mask in finished.masks.items():
            assert not finished.weights[name][~mask].any()
        found[per_epoch] = float(
            (finished.weights["1.weight"][finished.masks["1.weight"]] != 0).float().mean()
        )
        num_weights = sum(mask.numel() for mask in finished.masks.values())
        assert sum(int(mask.sum()) for mask in finished.masks.values()) == round(0.2 * num_weights)
    assert found[1] == pytest.approx(0.5, abs=0.12)  # 4 standard deviations of some 280 draws
    assert found[6] > 0.94


def test_the_last_layer_is_averaged_whole(tmp_path: Path) -> None:
    finished = outcome(run(cigl(weight_dropout=0.5, average_from=17 / 18, averages_per_epoch=1), tmp_path))
    assert bool(finished.weights["4.weight"][finished.masks["4.weight"]].all())


def masks_after_one_update(
    method: MaskUpdater, recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch, *, seed_of_z: int
) -> dict[str, Tensor]:
    """Returns the masks of a training that ends with an update; the random masks have their own seed."""

    def other(seed: int, name: str, *numbers: int) -> torch.Generator:
        return stream(seed_of_z if name == "weight-dropout" else seed, name, *numbers)

    with monkeypatch.context() as patch:
        patch.setattr(training_module, "stream", other)
        return dict(outcome(run(method, folder, recipe)).masks)


def test_the_update_of_the_masks_does_not_depend_on_the_random_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps so small that they move nothing leave the weights of the one update the same."""
    still = dataclasses.replace(recipe_of().optimizer, lr=1e-30)  # type: ignore[type-var]
    recipe = recipe_of(optimizer=still, budget={"steps": 4})
    method = cigl(weight_dropout=0.5, average_from=1.0, schedule=UpdateSchedule(every=3, until=1.0))
    found = [
        masks_after_one_update(method, recipe, tmp_path / str(seed), monkeypatch, seed_of_z=seed)
        for seed in (SEED, 77)
    ]
    without = outcome(run(dataclasses.replace(method, weight_dropout=0.0), tmp_path / "without", recipe)).masks
    for name, mask in found[0].items():
        assert torch.equal(mask, found[1][name])
        assert torch.equal(mask, without[name])


def test_other_random_masks_give_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed that the test above exchanges is the one that counts."""

    def other(seed: int, name: str, *numbers: int) -> torch.Generator:
        return stream(77 if name == "weight-dropout" else seed, name, *numbers)

    ours = weights_of(run(cigl(), tmp_path / "ours"))
    monkeypatch.setattr(training_module, "stream", other)
    assert not torch.equal(ours["1.weight"], weights_of(run(cigl(), tmp_path / "other"))["1.weight"])


@pytest.mark.parametrize(("growth", "base"), [("gradient", RigL), ("random", SET)])
def test_moon_moves_its_masks_as_its_base_method_does(growth: Any, base: type[SET], tmp_path: Path) -> None:
    """Under the same recipe, the numbers are those of the base method."""
    method = moon(growth=growth)
    theirs = run(base(**OFTEN), tmp_path / "base", method.complete(recipe_of()))
    assert_same_numbers(run(method, tmp_path / "ours"), theirs)
    assert (method.replaces_step, method.grows_by_gradient) == (base.replaces_step, base.grows_by_gradient)


def test_moon_without_weight_mask_and_average_is_cross_entropy_with_one_output_more(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class OneMore(BatchNormMlp):
        def build(self, *, image_shape: tuple[int, int, int], num_classes: int) -> Any:
            return super().build(image_shape=image_shape, num_classes=num_classes + 1)

    bare = {"weight_dropout": 0.0, "average_from": 1.0}
    ours = weights_of(run(moon(loss=UnknownAware(weight=0.0), **bare), tmp_path / "ours"))
    late = weights_of(run(moon(loss=UnknownAware(warmup_epochs=3), **bare), tmp_path / "late"))
    theirs = weights_of(run(RigL(**OFTEN), tmp_path / "rigl", model=OneMore()))
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], late[name])
        assert torch.allclose(ours[name], tensor, rtol=1e-4, atol=1e-6), name


def test_moon_is_evaluated_on_its_classes_without_the_unknown_output(tmp_path: Path) -> None:
    progress = run(moon(), tmp_path)
    test = outcome(progress).predictions["test"]
    assert test.logits.shape == (len(test.labels), 11)
    assert outcome(progress).num_extra == 1
    known = class_probabilities(test.logits, num_extra=1)
    reported = {m.name: m.value for m in progress[-1].metrics if m.split == "test" and m.step == 18}
    assert reported["accuracy"] == float((known.argmax(1) == test.labels).mean())
    assert reported["brier"] == pytest.approx(
        float(((known - np.eye(10)[test.labels]) ** 2).sum(1).mean()), rel=1e-6
    )
    assert float(known.sum(1).max()) < 1


def test_moon_reports_its_weight_and_moving_average_after_every_epoch(tmp_path: Path) -> None:
    progress = run(moon(), tmp_path)
    found = [m.value for part in progress for m in part.metrics if m.name == "unknown_weight"]
    seen = [m.value for part in progress for m in part.metrics if m.name == "known_loss"]
    assert found == pytest.approx([0.0, seen[0] / 64, 1.0], rel=1e-5)
    assert all(value > 0 for value in seen)


@pytest.mark.slow
def test_the_larger_the_weight_of_wrong_samples_the_larger_the_unknown_output(tmp_path: Path) -> None:
    """On digits of which three in ten have a label at random, shown Gaussian noise and the test digits."""
    draws, data, found = np.random.default_rng(0), digits(1400), {}
    labels = data.train.labels.copy()
    wrong = draws.random(len(labels)) < 0.3
    labels[wrong] = draws.integers(0, 10, int(wrong.sum()))
    noisy = dataclasses.replace(
        data, train=Split(images=data.train.images, labels=labels, row_ids=data.train.row_ids)
    )
    noise = torch.randn(2000, *data.image_shape, generator=torch.Generator().manual_seed(0))
    model = Mlp(width=32, depth=1)
    for weight in (0.0, 3.0):
        method = moon(weight_dropout=0.0, loss=UnknownAware(weight=weight, warmup_epochs=2))
        recipe = recipe_of(budget={"steps": None, "epochs": 30, "batch_size": 32, "evaluate_every": 0})
        finished: Outcome = outcome(run(method, tmp_path / str(weight), recipe, data=noisy, model=model))
        network = model.build(image_shape=data.image_shape, num_classes=11)
        network.load_state_dict(dict(finished.weights))
        on_noise = float(network(noise).detach().softmax(1)[:, -1].mean())
        on_digits = 1 - class_probabilities(finished.predictions["test"].logits, num_extra=1).sum(1).mean()
        found[weight] = on_noise, float(on_digits)
    assert found[3.0][0] > 1.2 * found[0.0][0]
    assert found[3.0][1] > 2 * found[0.0][1]
