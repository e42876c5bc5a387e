"""Mixed images: pairs and shares, and a loss of both labels with the same shares."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import loss_inputs
from pruneyard.workloads.losses.mixing import MixingObjective, sample_offset
from pruneyard.workloads.objectives.cutmix import CutMix
from pruneyard.workloads.objectives.mixup import Mixup
from pruneyard.workloads.seeding import stream

BOTH = [Mixup(alpha=1.0), CutMix(alpha=1.0)]


def images_of(rows: int = 6, height: int = 8, width: int = 10) -> Tensor:
    return torch.rand(rows, 2, height, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def asked(objective: MixingObjective, images: Tensor, labels: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the loss, the images that the network saw, and its logits of them."""
    weight = (
        torch.randn(4, images[0].numel(), generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 8
    )
    seen: list[Tensor] = []

    def network(given: Tensor) -> Tensor:
        seen.append(given)
        return given.flatten(1) @ weight.T

    value, _ = objective.loss(loss_inputs(network, images, labels, seed=seed))
    (given,) = seen
    return value, given, network(given)


def distance(rows: int, seed: int) -> int:
    return sample_offset(rows, torch.Generator().manual_seed(seed))


@each_case("seed", range(5))
def test_mixup_adds_the_partners_pixels_and_the_loss_of_its_label(seed: int) -> None:
    images, labels = images_of(), torch.tensor([0, 1, 2, 3, 0, 1])
    objective = Mixup(alpha=1.0)
    value, given, logits = asked(objective, images, labels, seed)
    lam = objective.sample_mixing_weight(torch.Generator().manual_seed(seed))
    places = distance(6, seed)
    log_p, expected = logits.log_softmax(1), 0.0
    for i in range(6):
        j = (i - places) % 6
        assert torch.allclose(given[i], lam * images[i] + (1 - lam) * images[j], rtol=1e-12)
        expected -= (lam * log_p[i, labels[i]] + (1 - lam) * log_p[i, labels[j]]).item() / 6
    assert 0 < lam < 1
    assert value.item() == pytest.approx(expected, rel=1e-12)


@each_case("seed", range(20))
def test_cutmix_pastes_one_box_and_counts_the_pixels_that_it_left(seed: int) -> None:
    images, labels = images_of(), torch.tensor([0, 1, 2, 3, 0, 1])
    value, given, logits = asked(CutMix(alpha=1.0), images, labels, seed)
    partners = images.roll(distance(6, seed), 0)
    pasted = (given == partners).all(dim=1)  # (B, H, W)
    assert ((given == images).all(dim=1) | pasted).all()
    assert (pasted == pasted[0]).all()  # the same box everywhere
    rows, columns = pasted[0].any(dim=1).nonzero(), pasted[0].any(dim=0).nonzero()
    area = int(pasted[0].sum())
    if area:
        assert area == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    lam = 1 - area / 80
    log_p = logits.log_softmax(1)
    own = -log_p.gather(1, labels[:, None]).mean()
    other = -log_p.gather(1, labels.roll(distance(6, seed))[:, None]).mean()
    assert value.item() == pytest.approx(float(lam * own + (1 - lam) * other), rel=1e-12)


def test_a_box_is_of_the_drawn_share_where_no_border_cuts_it_off() -> None:
    """Of 40 x 40 pixels and a share of 1/4 of the area a side is 20 pixels; at the border it is cut, never shifted."""
    objective, sizes = CutMix(), set()
    blank, full = torch.zeros(1, 1, 40, 40), torch.ones(1, 1, 40, 40)
    for seed in range(60):
        mixed, share = objective.mix(blank, full, 0.75, torch.Generator().manual_seed(seed))
        area = int(mixed.sum())
        assert share == 1 - area / 1600
        assert area <= 400
        sizes.add(area)
    assert 400 in sizes
    assert len(sizes) > 10


def test_shares_are_of_the_beta_distribution() -> None:
    """Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)); 4,000 draws are within five standard errors."""
    for alpha in (0.2, 1.0, 4.0):
        drawn = [Mixup(alpha=alpha).sample_mixing_weight(stream(0, "objective", step)) for step in range(4000)]
        shares = torch.tensor(drawn, dtype=torch.float64)
        variance = 1 / (4 * (2 * alpha + 1))
        assert shares.mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(variance / 4000))
        assert shares.var().item() == pytest.approx(variance, rel=0.1)
        assert ((shares >= 0) & (shares <= 1)).all()


def test_a_partner_is_another_row_and_each_other_row_comes_alike() -> None:
    drawn = [sample_offset(5, stream(0, "objective", step)) for step in range(4000)]
    counts = torch.tensor(drawn).bincount(minlength=5)
    assert counts[0] == 0
    assert len(counts) == 5
    assert (counts[1:] - 1000).abs().max() < 5 * math.sqrt(4000 * 0.25 * 0.75)
    assert sample_offset(1, torch.Generator()) == 0


@pytest.mark.parametrize("objective", BOTH, ids=repr)
def test_a_step_draws_the_same_whenever_it_is_asked_and_another_step_other_things(objective: MixingObjective) -> None:
    images, labels = images_of(), torch.tensor([0, 1, 2, 3, 0, 1])
    before = images.clone()
    first, again, other = (asked(objective, images, labels, seed) for seed in (5, 5, 6))
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(images, before)


@pytest.mark.parametrize("objective", [Mixup(alpha=0.0), CutMix(alpha=0.0)], ids=repr)
def test_without_alpha_images_are_seen_as_they_are(objective: MixingObjective) -> None:
    images = images_of()
    for seed in range(5):
        assert torch.equal(asked(objective, images, torch.zeros(6, dtype=torch.int64), seed)[1], images)


@pytest.mark.parametrize("objective", BOTH, ids=repr)
def test_a_batch_of_one_row_is_mixed_with_itself(objective: MixingObjective) -> None:
    images = images_of(rows=1)
    value, given, logits = asked(objective, images, torch.tensor([2]))
    assert torch.allclose(given, images, rtol=1e-12)
    assert value.item() == pytest.approx(-logits.log_softmax(1)[0, 2].item(), rel=1e-12)


@each_case("make", [Mixup, CutMix])
@each_case("alpha", [-0.1, math.inf, math.nan])
def test_an_alpha_outside_its_range_is_refused(make: Any, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"^alpha is"):
        make(alpha=alpha)
