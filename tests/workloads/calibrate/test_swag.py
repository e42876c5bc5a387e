"""SWAG moments worked by hand, samples with these moments, and sampled networks of a real training."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.trainings import (
    BatchNormMlp,
    checkpoint_at,
    digits,
    network_of,
    outcome,
    recipe_of,
    run,
)
from pruneyard.workloads.calibrate.members import pooled_logits
from pruneyard.workloads.calibrate.swag import swag_logits
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.training.swag_moments import SwagMoments
from pruneyard.workloads.training.weight_averaging import Averaging


def samples_of(*rows: list[float]) -> list[dict[str, Tensor]]:
    return [{"w": torch.tensor(row)} for row in rows]


def test_moments_of_three_samples() -> None:
    """Means 1, 2 and 3 of the samples so far leave deviations 0, 1 and 2; the variance of 1, 3, 5 is 8 / 3."""
    found = SwagMoments.of(samples_of([1.0, 0.0], [3.0, 0.0], [5.0, 6.0]))
    assert found.num == 3
    assert found.mean["w"].tolist() == [3.0, 2.0]
    assert found.variance("w").tolist() == pytest.approx([8 / 3, 8.0])
    assert [d["w"].tolist() for d in found.deviations] == [[0.0, 0.0], [1.0, 0.0], [2.0, 4.0]]
    assert found.mean["w"].dtype == torch.float64


def test_the_last_deviations_are_kept() -> None:
    found = SwagMoments.of(samples_of([1.0], [3.0], [5.0], [7.0]), rank=2)
    assert [d["w"].tolist() for d in found.deviations] == [[2.0], [3.0]]
    assert found.num == 4


def test_adding_a_sample_does_not_change_the_old_moments() -> None:
    first = SwagMoments.of(samples_of([1.0], [3.0]))
    second = first.with_sample({"w": torch.tensor([8.0])})
    assert (first.num, first.mean["w"].tolist(), len(first.deviations)) == (2, [2.0], 2)
    assert second.mean["w"].tolist() == [4.0]


def test_large_weights_of_small_spread_keep_their_variance() -> None:
    """1000 +- 0.01: in float32 the mean of squares less the square of the mean is rounding alone."""
    rows = [[1000.0 + 0.01 * sign] for sign in (-1, 1)] * 50
    spread = torch.tensor(rows, dtype=torch.float32).double().var(unbiased=False).item()
    assert SwagMoments.of(samples_of(*rows)).variance("w").item() == pytest.approx(spread, rel=1e-3)


def test_one_draw_is_the_mean_and_both_kinds_of_noise() -> None:
    found = SwagMoments.of(samples_of([1.0, 0.0], [3.0, 2.0], [5.0, 1.0]))
    generator = torch.Generator().manual_seed(5)
    common = torch.randn(3, generator=generator, dtype=torch.float64)
    own = torch.randn(2, generator=generator, dtype=torch.float64)
    low_rank = sum(e * d["w"] for e, d in zip(common, found.deviations, strict=True)) / 2**0.5
    expected = found.mean["w"] + (found.variance("w").sqrt() * own + low_rank) / 2**0.5
    drawn = found.draw(torch.Generator().manual_seed(5))["w"]
    assert drawn.dtype == torch.float32
    assert torch.allclose(drawn.double(), expected, rtol=1e-6)


@pytest.mark.slow
def test_draws_have_the_mean_and_covariance_of_the_samples() -> None:
    """A correlated normal in two dimensions, drifting nowhere: half the variance is each part's, so covariances off the
    diagonal are halved. 3,000 draws; tolerances of about five standard errors, and the deviations are from running means."""
    generator = torch.Generator().manual_seed(0)
    root = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    rows = torch.randn(400, 2, generator=generator) @ root.T + torch.tensor([3.0, -1.0])
    found = SwagMoments.of([{"w": row} for row in rows], rank=400)
    drawn = torch.stack([found.draw(generator)["w"] for _ in range(3000)]).double()
    true = rows.double().T.cov()
    assert torch.allclose(drawn.mean(0), rows.double().mean(0), atol=5 / 3000**0.5)
    covariance = drawn.T.cov()
    assert torch.allclose(covariance.diagonal(), true.diagonal(), rtol=0.15)
    assert covariance[0, 1].item() == pytest.approx(true[0, 1].item() / 2, rel=0.25)


def test_without_scale_a_draw_is_the_mean() -> None:
    found = SwagMoments.of(samples_of([1.0, 0.0], [3.0, 2.0]))
    assert found.draw(torch.Generator(), scale=0.0)["w"].tolist() == [2.0, 1.0]


def passed(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network.eval()(images)  # type: ignore[no-any-return]


def test_a_training_gives_samples_whose_mean_is_its_average(tmp_path: Path) -> None:
    """18 steps, six an epoch: samples after steps 12 and 18, as `average` takes them. Scale 0, and statistics of the same
    batches, give one network however often it is drawn."""
    recipe = recipe_of(average=Averaging(begin=0.5), budget={"checkpoint_every_s": 0})
    finished = outcome(run(Static(density=0.5), tmp_path / "run", recipe))
    data = digits()
    held = [network_of(checkpoint_at(step, tmp_path / "run", tmp_path / str(step))) for step in (12, 18)]
    network = BatchNormMlp().build(image_shape=data.image_shape, num_classes=10)
    names = [name for name, _ in network.named_parameters()]
    swag = SwagMoments.of({name: tensors[name] for name in names} for tensors in held)
    for name in names:
        assert torch.allclose(swag.mean[name].float(), finished.weights[name], atol=1e-6)
    rows = DeviceSplit(data.train, mean=data.mean, std=data.std)
    images = [batch for batch, _ in DeviceSplit(data.test, mean=data.mean, std=data.std).batches(7)]

    def passing() -> list[Tensor]:
        return [batch for batch, _ in rows.batches(48)]

    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    still = swag_logits(network, swag, images, passing=passing, num_draws=2, scale=0.0, seed=1)
    drawn = swag_logits(network, swag, images, passing=passing, num_draws=4, seed=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training
    assert torch.equal(still[0], still[1])
    assert drawn.shape == (4, len(data.test), 10)
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[:2], swag_logits(network, swag, images, passing=passing, num_draws=2, seed=1))
    assert (pooled_logits(drawn.numpy()).epistemic > 0).all()
    network.load_state_dict({**network.state_dict(), **{n: swag.mean[n].float() for n in names}})
    norm = network[2]  # type: ignore[index]
    given = [batch.flatten(1) @ network[1].weight.T + network[1].bias for batch in passing()]  # type: ignore[index]
    norm.running_mean = torch.stack([g.mean(0) for g in given]).mean(0).detach()
    norm.running_var = torch.stack([g.var(0) for g in given]).mean(0).detach()
    expected = torch.cat([passed(network, batch) for batch in images])
    assert torch.allclose(still[0], expected, atol=1e-5)


def test_weights_outside_masks_stay_zero_in_every_draw(tmp_path: Path) -> None:
    run(Static(density=0.3), tmp_path / "run", recipe_of(budget={"checkpoint_every_s": 0}))
    saved = [checkpoint_at(step, tmp_path / "run", tmp_path / str(step)) for step in (6, 12, 18)]
    swag = SwagMoments.of({"w": network_of(held)["1.weight"]} for held in saved)
    mask = saved[0].tensors["mask/1.weight"]
    drawn = swag.draw(torch.Generator().manual_seed(0))["w"]
    assert not drawn[~mask].any()
    assert drawn[mask].all()


def test_a_network_without_norms_is_not_shown_training_rows() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    weights = dict(network.named_parameters())
    swag = SwagMoments.of([{n: w + s for n, w in weights.items()} for s in (0.0, 0.1)])
    images = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(1))

    def passing() -> list[Tensor]:
        raise AssertionError("asked for training rows")

    assert swag_logits(network, swag, [images], passing=passing, num_draws=3, seed=0).shape == (3, 2, 3)


def test_what_cannot_be_drawn_is_refused() -> None:
    one = SwagMoments.of(samples_of([1.0]))
    with pytest.raises(ValueError, match=r"^there are 1 weight samples"):
        one.draw(torch.Generator())
    with pytest.raises(ValueError, match="other names or shapes"):
        one.with_sample({"v": torch.zeros(1)})
    with pytest.raises(ValueError, match="other names or shapes"):
        one.with_sample({"w": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"^rank is 1"):
        SwagMoments(rank=1)
    two = one.with_sample({"w": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"^scale is -1"):
        two.draw(torch.Generator(), scale=-1.0)
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), [torch.zeros(1, 1, 2, 2)]
    with pytest.raises(ValueError, match="they must be of"):
        swag_logits(network, two, images, passing=list, num_draws=1, seed=0)
    with pytest.raises(ValueError, match=r"^num_draws is 0"):
        swag_logits(network, two, images, passing=list, num_draws=0, seed=0)
