"""Weight averaging: which steps give a sample, the mean, and the final network of a training."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.trainings import (
    SEED,
    BatchNormMlp,
    assert_same_numbers,
    checkpoint_at,
    copy_checkpoint,
    digits,
    network_of,
    outcome,
    recipe_of,
    run,
)
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.metrics.classification import standard_metrics
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.recipe import Recipe
from pruneyard.workloads.training.swag_moments import SwagMoments
from pruneyard.workloads.training.weight_averaging import Averaging, WeightMean

PER_EPOCH = 6  # steps, of 18 in all
LATE = Averaging(begin=0.5, per_epoch=3)  # after steps 10, 12, 14, 16 and 18
RIGL = RigL(density=0.2, schedule=UpdateSchedule(every=2, until=0.5))


def due(average: Averaging, num_steps: int = 18, per_epoch: int = PER_EPOCH) -> list[int]:
    """Returns the numbers of finished steps at which a sample is taken."""
    options = {"num_steps": num_steps, "steps_per_epoch": per_epoch}
    return [done for done in range(1, num_steps + 1) if average.is_due(done, **options)]


@each_case(
    ("average", "steps"),
    [
        (Averaging(), []),
        (Averaging(begin=0.5), [12, 18]),
        (Averaging(begin=2 / 3), [18]),  # not after step 12, when it begins
        (Averaging(begin=0.0), [6, 12, 18]),
        (LATE, [10, 12, 14, 16, 18]),
        (Averaging(begin=0.5, per_epoch=4), [11, 12, 14, 15, 17, 18]),  # of six: after 2, 3, 5 and 6
        (Averaging(begin=0.8, per_epoch=99), [15, 16, 17, 18]),
    ],
)
def test_samples_are_evenly_spaced_in_an_epoch_and_come_at_its_end(
    average: Averaging, steps: list[int]
) -> None:
    assert due(average) == steps


def test_a_window_shorter_than_a_step_has_the_last_one() -> None:
    assert due(Averaging(begin=0.999)) == [18]
    assert due(Averaging()) == []


def test_the_last_step_is_a_sample_also_within_an_epoch() -> None:
    assert due(Averaging(begin=0.5), num_steps=16) == [12, 16]
    assert due(Averaging(begin=0.9), num_steps=16) == [16]


@each_case("per_epoch", [1, 3, 10, 50])
def test_every_epoch_gives_as_many_samples_as_said(per_epoch: int) -> None:
    found = due(Averaging(begin=0.8, per_epoch=per_epoch), num_steps=100 * 390, per_epoch=390)
    assert len(found) == 20 * per_epoch
    gaps = {later - earlier for earlier, later in pairwise(found)}
    assert max(gaps) - min(gaps) <= 1


@each_case(
    ("fields", "message"),
    [
        ({"begin": 1.1}, r"^begin is"),
        ({"per_epoch": 0}, r"^per_epoch is"),
        ({"begin": 0.5, "swag_rank": 1}, r"^swag_rank is 1; it must be 0, or 2"),
    ],
)
def test_values_outside_their_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Averaging(**fields)  # type: ignore[arg-type]


def test_the_running_mean_is_the_arithmetic_mean_and_samples_stay_as_they_were() -> None:
    draws = torch.Generator().manual_seed(0)
    samples = [
        {"w": torch.randn(50, 40, generator=draws), "b": torch.randn(50, generator=draws)} for _ in range(51)
    ]
    copies = [{name: tensor.clone() for name, tensor in sample.items()} for sample in samples]
    mean = WeightMean()
    for sample in samples:
        mean = mean.with_sample(sample)
    assert mean.num == 51
    for name in ("w", "b"):
        exact = torch.stack([sample[name].double() for sample in samples]).mean(0)
        assert float((mean.tensors[name] - exact).abs().max()) < 1e-6
        assert all(torch.equal(s[name], copy[name]) for s, copy in zip(samples, copies, strict=True))


def test_a_mean_is_left_as_it_was_by_the_next_sample() -> None:
    first = WeightMean().with_sample({"w": torch.ones(3)})
    second = first.with_sample({"w": torch.full((3,), 3.0)})
    assert (first.num, first.tensors["w"].tolist()) == (1, [1.0] * 3)
    assert (second.num, second.tensors["w"].tolist()) == (2, [2.0] * 3)


def means_of(folder: Path, tmp_path: Path, steps: list[int]) -> dict[str, Tensor]:
    """Returns parameters averaged in float64 over the folder's checkpoints after those steps."""
    found = [network_of(checkpoint_at(step, folder, tmp_path / f"at-{step}")) for step in steps]
    parameters = [name for name in found[0] if name.endswith(("weight", "bias"))]
    return {name: torch.stack([held[name].double() for held in found]).mean(0) for name in parameters}


def every_step(average: Averaging) -> Recipe:
    return recipe_of(average=average, budget={"checkpoint_every_s": 0})


@pytest.mark.parametrize("method", [Dense(), RIGL], ids=["dense", "rigl"])
def test_a_training_ends_as_the_mean_of_the_weights_it_went_through(
    method: Dense | RigL, tmp_path: Path
) -> None:
    finished = outcome(run(method, tmp_path / "run", every_step(LATE)))
    for name, mean in means_of(tmp_path / "run", tmp_path, due(LATE)).items():
        assert float((finished.weights[name] - mean).abs().max()) < 1e-6


def test_an_average_of_one_sample_is_the_last_weights(tmp_path: Path) -> None:
    last = Averaging(begin=17 / 18)
    plain, averaged = (
        outcome(run(Dense(), tmp_path / name, recipe_of(average=average)))
        for name, average in {"plain": Averaging(), "last": last}.items()
    )
    parameters = [name for name in plain.weights if name.endswith(("weight", "bias"))]
    assert all(torch.equal(plain.weights[name], averaged.weights[name]) for name in parameters)
    assert not torch.equal(plain.weights["2.running_mean"], averaged.weights["2.running_mean"])


def test_running_statistics_of_the_mean_are_those_of_an_epochs_batches(tmp_path: Path) -> None:
    """By hand: the means over six shuffled, augmented batches of 16 of what the norm is given, and of its variance."""
    finished = outcome(run(Dense(), tmp_path / "run", recipe := recipe_of(average=LATE)))
    data, weights = digits(), finished.weights
    rows = DeviceSplit(data.train, mean=data.mean, std=data.std)
    generator = stream(SEED, "refresh", len(due(LATE)))
    order = torch.randperm(96, generator=generator)
    means, variances = [], []
    for batch in order.split(16):
        images, _ = rows.batch(batch, recipe.augment, generator)
        given = images.flatten(1) @ weights["1.weight"].T + weights["1.bias"]
        means.append(given.mean(0))
        variances.append(given.var(0))  # unbiased, as torch keeps it
    assert torch.allclose(weights["2.running_mean"], torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    assert torch.allclose(weights["2.running_var"], torch.stack(variances).mean(0), rtol=1e-4, atol=1e-5)


def test_rows_that_fill_no_batch_do_not_spoil_running_statistics(tmp_path: Path) -> None:
    """A batch of one row has no variance: torch refuses it."""
    data = digits()
    one_more = Split(
        images=data.train.images[:81], labels=data.train.labels[:81], row_ids=data.train.row_ids[:81]
    )
    odd = replace(data, train=one_more)
    finished = outcome(run(Dense(), tmp_path, recipe_of(average=Averaging(begin=0.5)), data=odd))
    assert int(finished.weights["2.num_batches_tracked"]) == 5


def test_evaluations_are_of_the_mean_from_the_first_sample_on(tmp_path: Path) -> None:
    """Samples after steps 6, 12 and 18; the second evaluation is of the mean of two."""
    model, everywhere = Mlp(width=16, depth=1), Averaging(begin=0.0)
    folder = tmp_path / "run"
    progress = run(Static(density=0.5), folder, every_step(everywhere), model=model)
    data = digits()
    network = model.build(image_shape=data.image_shape, num_classes=10).double()
    (images, labels), *_ = DeviceSplit(data.val, mean=data.mean, std=data.std).batches(1000)
    reported = [m.value for m in progress[1].metrics if (m.split, m.name, m.step) == ("val", "nll", 12)]

    def nll(weights: dict[str, Tensor]) -> float:
        network.load_state_dict(weights)
        with torch.no_grad():
            return standard_metrics(network(images.double()).numpy(), labels.numpy())["nll"]

    assert reported == [pytest.approx(nll(means_of(folder, tmp_path, [6, 12])), rel=1e-5)]
    last = network_of(checkpoint_at(12, folder, tmp_path / "last"))
    assert reported != [pytest.approx(nll({n: t.double() for n, t in last.items()}), rel=1e-3)]


@pytest.mark.parametrize("step", [9, 10, 13, 18])
def test_resumed_within_the_average_equals_uninterrupted_bit_for_bit(step: int, tmp_path: Path) -> None:
    whole = run(RIGL, tmp_path / "whole", every_step(LATE))
    folder = copy_checkpoint(step, tmp_path / "whole", tmp_path / "resumed")
    assert_same_numbers(run(RIGL, folder, every_step(LATE)), whole)


def test_averaging_changes_no_step_of_the_training(tmp_path: Path) -> None:
    for name, average in {"plain": Averaging(), "averaged": LATE}.items():
        run(RIGL, tmp_path / name, every_step(average))
    plain, averaged = (checkpoint_at(18, tmp_path / n, tmp_path / f"{n}-last") for n in ("plain", "averaged"))
    held = {"plain": network_of(plain), "averaged": network_of(averaged)}
    assert all(torch.equal(tensor, held["averaged"][name]) for name, tensor in held["plain"].items())


def test_the_number_of_evaluations_changes_neither_the_mean_nor_its_cost(tmp_path: Path) -> None:
    often, once = (
        outcome(run(RIGL, tmp_path / str(every), recipe_of(average=LATE, budget={"evaluate_every": every})))
        for every in (1, 0)
    )
    assert all(torch.equal(tensor, once.weights[name]) for name, tensor in often.weights.items())
    assert often.train_flops == once.train_flops


def test_the_mean_of_a_sparse_training_stays_within_its_last_masks(tmp_path: Path) -> None:
    finished = outcome(run(RIGL, tmp_path, recipe_of(average=LATE)))
    for name, mask in finished.masks.items():
        assert not finished.weights[name][~mask].any()
        assert bool(finished.weights[name][mask].all())
    assert np.isfinite(finished.predictions["test"].logits).all()


def test_a_network_without_norms_is_averaged_at_no_cost(tmp_path: Path) -> None:
    model = Mlp(width=16, depth=1)
    costs = {
        outcome(run(Dense(), tmp_path / n, recipe_of(average=a), model=model)).train_flops
        for n, a in {"plain": Averaging(), "averaged": LATE}.items()
    }
    assert len(costs) == 1
    normed = {
        outcome(run(Dense(), tmp_path / f"normed-{n}", recipe_of(average=a), model=BatchNormMlp())).train_flops
        for n, a in {"plain": Averaging(), "averaged": LATE}.items()
    }
    forward = 2 * (64 * 24 + 24 * 10)
    assert max(normed) - min(normed) == 96 * forward  # type: ignore[operator,type-var]  # an epoch's forward passes


def test_moments_are_those_of_the_samples_and_change_nothing_else(tmp_path: Path) -> None:
    """Bit-equal to those of the checkpoints after the same steps; the masks of RigL are constant by then."""
    kept = replace(LATE, swag_rank=2)
    plain = run(RIGL, tmp_path / "plain", every_step(LATE))
    found = run(RIGL, tmp_path / "kept", every_step(kept))
    assert_same_numbers(found, plain)
    assert not outcome(plain).files
    moments = load(outcome(found).files["swag.safetensors"])
    held = [network_of(checkpoint_at(s, tmp_path / "plain", tmp_path / f"at-{s}")) for s in due(LATE)]
    parameters = [name for name in held[0] if name.endswith(("weight", "bias"))]
    expected = SwagMoments.of(({n: tensors[n] for n in parameters} for tensors in held), rank=2)
    assert moments.keys() == expected.tensors().keys()
    assert all(torch.equal(moments[name], tensor) for name, tensor in expected.tensors().items())
    assert moments["mean/1.weight"].dtype == moments["square/1.weight"].dtype == torch.float64
    for name, mask in outcome(found).masks.items():
        assert not moments[f"square/{name}"][~mask].any()


@pytest.mark.parametrize("step", [9, 13])
def test_moments_of_a_resumed_training_are_those_of_an_uninterrupted_one(step: int, tmp_path: Path) -> None:
    recipe = every_step(replace(LATE, swag_rank=3))
    whole = run(RIGL, tmp_path / "whole", recipe)
    resumed = run(RIGL, copy_checkpoint(step, tmp_path / "whole", tmp_path / "resumed"), recipe)
    assert_same_numbers(resumed, whole)
    assert outcome(resumed).files == outcome(whole).files


def test_stored_moments_continue_with_new_samples() -> None:
    draws = torch.Generator().manual_seed(0)
    samples = [{"a/b": torch.randn(4, 3, generator=draws)} for _ in range(5)]
    stored = SwagMoments.of(samples[:3], rank=2).tensors()
    gone_on = SwagMoments.of_tensors(stored, rank=2).with_sample(samples[3]).with_sample(samples[4])
    expected = SwagMoments.of(samples, rank=2)
    assert (gone_on.num, gone_on.rank, len(gone_on.deviations)) == (5, 2, 2)
    assert all(torch.equal(gone_on.tensors()[name], tensor) for name, tensor in expected.tensors().items())
    assert SwagMoments.of_tensors({}, rank=4) == SwagMoments(rank=4)
