"""PGD where the worst image is known, and the state that an attack must not change."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import loss_inputs
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.interfaces import PixelRange
from pruneyard.workloads.losses.adversarial import Attack, margin_loss
from pruneyard.workloads.objectives.pgd import PGD
from pruneyard.workloads.objectives.trades import TRADES, divergence
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.ranks import Share
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.training.state import Training

GREY = PixelRange(black=torch.zeros(1, 1, 1, 1), white=torch.ones(1, 1, 1, 1))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def normalised(pixels: Tensor, mean: list[float], std: list[float]) -> tuple[Tensor, PixelRange]:
    """Normalises pixels in [0, 1] as batches are."""
    centre, scale = torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)
    return (pixels - centre) / scale, PixelRange(black=-centre / scale, white=(1 - centre) / scale)


def test_against_a_linear_classifier_every_pixel_moves_by_eps_towards_the_other_class() -> None:
    """Two classes: the margin is (w_y - w_o) x, least at x - eps sign(w_y - w_o), as far as that is a pixel."""
    mean, std, eps = [0.3, 0.7], [0.2, 0.4], 0.1
    pixels, weight, labels = drawn(6, 2, 3, 3), normal(2, 18), torch.tensor([0, 1, 0, 1, 1, 0])
    images, around = normalised(pixels, mean, std)
    attack = Attack(eps=eps, step_size=eps / 4, num_steps=8)  # 2 eps: from one end to the other
    moved = attack(
        images,
        loss_fn=margin_loss(lambda x: x.flatten(1) @ weight.T, labels),
        pixels=around,
        generator=torch.Generator().manual_seed(1),
    )
    away = (weight[1 - labels] - weight[labels]).view_as(pixels).sign()
    expected, _ = normalised((pixels + eps * away).clamp(0, 1), mean, std)
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=1e-6)


def test_a_label_beyond_doubt_is_attacked_in_the_right_direction() -> None:
    """Logits 300 x for the label and 150 x for the other: the label's probability rounds to 1, the other's to 0. Only the
    label's part of the gradient says that x must fall."""
    images = torch.ones(1, 1, 1, 1)
    moved = Attack(eps=0.1, step_size=0.1, num_steps=3)(
        images,
        loss_fn=margin_loss(lambda x: x.flatten(1) * torch.tensor([[300.0, 150.0]]), torch.tensor([0])),
        pixels=GREY,
        generator=torch.Generator().manual_seed(0),
    )
    assert float(moved) == pytest.approx(0.9)


@given(
    mean=st.lists(st.floats(0, 1), min_size=2, max_size=2),
    std=st.lists(st.floats(0.05, 1), min_size=2, max_size=2),
    eps=st.floats(0, 1),
    step_size=st.floats(0, 1),
    num_steps=st.integers(0, 4),
    start=st.sampled_from(["uniform", "nearby"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_no_pixel_moves_by_more_than_eps_or_leaves_its_range(
    mean: list[float],
    std: list[float],
    eps: float,
    step_size: float,
    num_steps: int,
    start: Literal["uniform", "nearby"],
    seed: int,
) -> None:
    """The bound holds up to float32's rounding of values as large as 1 / 0.05."""
    pixels = drawn(3, 2, 2, 2, seed=seed)
    pixels[0] = pixels[0].round()  # black and white ones among them
    images, around = normalised(pixels, mean, std)
    attack = Attack(eps=eps, step_size=step_size, num_steps=num_steps, start=start)
    weight = normal(3, 8, seed=seed)
    moved = attack(
        images,
        loss_fn=margin_loss(lambda x: x.flatten(1) @ weight.T, torch.tensor([0, 1, 2])),
        pixels=around,
        generator=torch.Generator().manual_seed(seed),
    )
    back = moved * torch.tensor(std).view(1, -1, 1, 1) + torch.tensor(mean).view(1, -1, 1, 1)
    assert float((back - pixels).abs().max()) <= eps + 2e-6
    assert float(back.min()) >= -2e-6
    assert float(back.max()) <= 1 + 2e-6


@pytest.mark.parametrize("neutral", [{"eps": 0.0}, {"num_steps": 0}])
def test_an_attack_that_cannot_move_a_pixel_returns_the_same_images(neutral: dict[str, Any]) -> None:
    attack = dataclasses.replace(Attack(eps=0.1, step_size=0.1, num_steps=2), **neutral)
    images = normal(2, 1, 3, 3)  # beyond black and white, even
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert attack(images, loss_fn=torch.sum, pixels=GREY, generator=generator) is images
    assert torch.equal(generator.get_state(), before)
    assert attack.forwards == 0


def test_an_attack_follows_from_its_generator() -> None:
    def moved(seed: int) -> Tensor:
        return Attack(eps=0.1, step_size=0.001, num_steps=1)(
            drawn(2, 1, 3, 3), loss_fn=torch.sum, pixels=GREY, generator=torch.Generator().manual_seed(seed)
        )

    assert torch.equal(moved(1), moved(1))
    assert not torch.equal(moved(1), moved(2))


@pytest.mark.parametrize("start", ["uniform", "nearby"])
def test_ranks_attack_their_rows_as_one_alone_attacks_the_batch(start: Literal["uniform", "nearby"]) -> None:
    attack, images = Attack(eps=0.1, step_size=0.001, num_steps=1, start=start), drawn(5, 1, 3, 3)

    def moved(rows: Tensor, share: Share) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return attack(rows, loss_fn=torch.sum, pixels=GREY, generator=generator, share=share)

    parts = [moved(images[:2], Share(0, 2, 5)), moved(images[2:], Share(2, 5, 5))]
    assert torch.equal(torch.cat(parts), moved(images, Share.whole(5)))


def test_an_attack_raises_the_loss_more_than_chance_does() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=i) / 5)
    images, labels = drawn(20, 1, 8, 8), torch.arange(20) % 10
    loss_fn = margin_loss(network, labels)

    def after(step_size: float) -> float:
        attack = Attack(eps=0.1, step_size=step_size, num_steps=10)
        moved = attack(images, loss_fn=loss_fn, pixels=GREY, generator=torch.Generator().manual_seed(5))
        return float(functional.cross_entropy(network(moved), labels).detach())

    natural = float(functional.cross_entropy(network(images), labels).detach())
    assert after(0.02) > 1.2 * max(after(0.0), natural)


def test_what_an_attack_raises_is_cross_entropy_s_odds() -> None:
    logits, labels = 3 * normal(5, 4), torch.tensor([0, 3, 1, 1, 2])
    for row, label in zip(logits, labels, strict=True):
        odds = float(margin_loss(lambda x: x, label[None])(row[None]))
        assert math.log1p(math.exp(odds)) == pytest.approx(
            float(functional.cross_entropy(row, label)), rel=1e-5
        )


def test_extra_outputs_are_no_class_to_be_moved_to() -> None:
    """The third output grows with x, the second against it: only the second is another class."""
    moved = Attack(eps=0.1, step_size=0.1, num_steps=3)(
        torch.full((1, 1, 1, 1), 0.5),
        loss_fn=margin_loss(
            lambda x: x.flatten(1) * torch.tensor([[0.0, -1.0, 9.0]]), torch.tensor([0]), num_extra=1
        ),
        pixels=GREY,
        generator=torch.Generator().manual_seed(0),
    )
    assert float(moved) == pytest.approx(0.4)


def test_trades_weights_the_divergence_between_the_image_and_its_adversarial_example() -> None:
    """Logits (x, 0): from x = 0.5 either end of the ball may be the worst; both divergences are written out."""
    images, labels = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    objective = TRADES(eps=0.25, step_size=0.1, num_steps=10, beta=2.0)

    def logits(x: Tensor) -> Tensor:
        return torch.cat((x.flatten(1), torch.zeros(len(x), 1)), dim=1)

    loss, memory = objective.loss(loss_inputs(logits, images, labels))
    natural = torch.tensor([0.5, 0.0]).softmax(0)
    at_ends = [torch.tensor([end, 0.0]).softmax(0) for end in (0.25, 0.75)]
    divergences = [float((natural * (natural / end).log()).sum()) for end in at_ends]
    expected = [float(-natural[0].log()) + 2 * value for value in divergences]
    assert memory == {}
    assert any(float(loss) == pytest.approx(value, rel=1e-5) for value in expected)


def test_divergence_is_of_the_first_from_the_second_summed_over_rows() -> None:
    first, second = normal(3, 4, seed=1).double(), normal(3, 4, seed=2).double()
    p, q = first.softmax(1), second.softmax(1)
    assert float(divergence(first, second)) == pytest.approx(float((p * (p / q).log()).sum()))


@dataclass(frozen=True)
class DropoutMlp:
    """Builds a network whose passes draw and move running statistics."""

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        layers = (
            nn.Linear(64, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(16, num_classes),
        )
        return nn.Sequential(nn.Flatten(), *layers)


def started(objective: PGD | TRADES, **budget: Any) -> tuple[Training, Tensor, Tensor]:
    data = Digits(max_train=40, max_test=20).load()
    split = DeviceSplit(data.train, mean=data.mean, std=data.std)
    recipe = Recipe(
        budget=Budget(steps=2, batch_size=16, **budget), objective=objective, optimizer=SGD(lr=0.1)
    )
    training = Training.start(
        DropoutMlp(), recipe=recipe, method=Static(density=0.5), seed=1, rows=split, num_classes=data.num_classes
    )
    return training, split.normalise(split.images[:16]), split.labels[:16]


OBJECTIVES: list[tuple[Callable[..., Any], int]] = [(PGD, 1), (TRADES, 2)]


@each_case("mode", ["evaluation", "training"])
@each_case(("objective", "passes"), OBJECTIVES)
def test_an_attack_changes_neither_gradients_nor_running_statistics(
    objective: Callable[..., Any], passes: int, mode: str
) -> None:
    """Only the passes of the loss itself move the statistics."""
    training, images, labels = started(objective(attack_mode=mode))
    before = images.clone()
    training.compute_loss(images, labels, 0)
    assert all(parameter.grad is None for parameter in training.network.parameters())
    assert int(training.network.get_buffer("2.num_batches_tracked")) == passes
    assert torch.equal(images, before)
    assert training.network.training


@each_case("mode", ["evaluation", "training"])
@each_case("budget", [{}, {"precision": "bfloat16"}])
def test_the_gradient_is_cross_entropy_s_at_the_moved_images(budget: dict[str, Any], mode: Any) -> None:
    """The attack is made beforehand and by itself; under autocast it must not have left the weights without gradients."""
    objective = PGD(attack_mode=mode)
    training, images, labels = started(objective, **budget)
    with training.network_tensors.preserve_buffers(), training.autocast():
        random = torch.get_rng_state()
        with training.eval_mode() if mode == "evaluation" else training.network_tensors.preserve_buffers():
            moved = objective.attack(
                images,
                loss_fn=margin_loss(training.forward, labels),
                pixels=training.pixels,
                generator=stream(training.seed, "objective", 0),
            )
        expected = functional.cross_entropy(training.forward(moved), labels)
    expected.backward()
    by_hand = {name: gradient.clone() for name, gradient in training.network_tensors.gradients().items()}
    training.optimizer.zero_grad()
    torch.set_rng_state(random)
    loss, _ = training.compute_loss(images, labels, 0)
    loss.backward()
    assert float(loss.detach()) == float(expected.detach())
    assert by_hand.keys() == training.network_tensors.gradients().keys() == training.network_tensors.parameters.keys()
    assert all(torch.equal(by_hand[name], g) for name, g in training.network_tensors.gradients().items())
    assert not torch.equal(moved, images)


@each_case(
    ("fields", "rule"),
    [
        ({"eps": -0.1}, r"^eps is -0.1"),
        ({"eps": 8.0}, r"^eps is 8.0; it must lie in \[0, 1\]"),
        ({"step_size": float("nan")}, r"^step_size is nan"),
        ({"num_steps": -1}, r"^num_steps is -1"),
        ({"attack_mode": "test"}, r"^attack_mode is 'test'"),
        ({"beta": -1.0}, r"^beta is -1.0"),
    ],
)
def test_an_attack_that_is_none_is_refused(fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        TRADES(**fields)
