"""Robust accuracy where it is known, and its invariants."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.cases import each_case
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.interfaces import Objective
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.training.robustness import RobustAccuracy, robust_accuracy
from pruneyard.workloads.workload import Context, Progress

MEAN, STD = (0.4, 0.6), (0.25, 0.5)


def noise(num: int, *, num_classes: int = 2, seed: int = 0) -> DeviceSplit:
    """Returns rows of noise with two channels, with random labels."""
    drawn = np.random.default_rng(seed)
    images = drawn.integers(0, 256, (num, 2, 3, 3)).astype(np.uint8)
    return DeviceSplit(Split.from_arrays(images, drawn.integers(0, num_classes, num)), mean=MEAN, std=STD)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nonlinear_network(num_classes: int = 4) -> nn.Module:
    """Returns a network whose best attack is not known."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(18, 32), nn.ReLU(), nn.Linear(32, num_classes))
    with torch.no_grad():
        for place, parameter in enumerate(network.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=place) / parameter.shape[-1] ** 0.5)
    return network.eval()


def own_labels(network: Callable[[Tensor], Tensor], split: DeviceSplit) -> DeviceSplit:
    """Returns the same rows with the network's predictions as labels, so that it is always right."""
    with torch.no_grad():
        split.labels = network(split.normalise(split.images)).argmax(1)
    return split


@pytest.mark.parametrize("eps", [0.02, 0.1])
def test_of_a_linear_classifier_it_is_the_share_whose_margin_outlasts_eps(eps: float) -> None:
    """In pixels: right if the margin stays above 0 when every pixel moves by eps, or to its end, against the label."""
    split, weight = noise(400), normal(2, 18)
    pixels = split.images.double() / 255
    direction = (weight[split.labels] - weight[1 - split.labels]).double().view_as(pixels)
    scale = torch.tensor(STD).view(1, 2, 1, 1)
    worst = (pixels - eps * direction.sign()).clamp(0, 1)
    margins = (direction * (worst - torch.tensor(MEAN).view(1, 2, 1, 1)) / scale).flatten(1).sum(1)
    table = RobustAccuracy(restarts=1, eps=eps, num_steps=8)
    found = robust_accuracy(lambda x: x.flatten(1) @ weight.T, split, table)
    assert found == float((margins > 0).double().mean())
    assert 0.02 < found < 0.48


def test_more_restarts_and_larger_eps_never_find_more() -> None:
    network = nonlinear_network()
    split = own_labels(network, noise(300, num_classes=4))
    found = [
        robust_accuracy(network, split, RobustAccuracy(restarts=restarts, eps=0.06, num_steps=2, total_step_size=1.0))
        for restarts in (1, 2, 4, 8)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]
    wider = RobustAccuracy(restarts=8, eps=0.12, num_steps=2, total_step_size=1.0)
    assert robust_accuracy(network, split, wider) < found[-1] < 1


def test_a_row_that_is_broken_is_attacked_no_more() -> None:
    network, asked = nonlinear_network(), []

    def counting(images: Tensor) -> Tensor:
        asked.append(len(images))
        return network(images)  # type: ignore[no-any-return]

    split = own_labels(network, noise(300, num_classes=4))
    table = RobustAccuracy(restarts=1, eps=0.1, num_steps=1)
    standing = round(300 * robust_accuracy(network, split, table))
    robust_accuracy(counting, split, RobustAccuracy(restarts=2, eps=0.1, num_steps=1))
    assert 0 < standing < 300
    assert (
        sum(asked) == 300 + 2 * 300 + 2 * standing
    )  # as they are; a step and the answer to it, of each start


def test_where_everything_is_wrong_nothing_is_left() -> None:
    network = nonlinear_network()
    split = own_labels(network, noise(20, num_classes=4))
    split.labels = (split.labels + 1) % 4
    assert robust_accuracy(network, split, RobustAccuracy(restarts=2, num_steps=1)) == 0.0


def test_without_reach_it_is_accuracy() -> None:
    network, split = nonlinear_network(), noise(200, num_classes=4)
    with torch.no_grad():
        accuracy = (network(split.normalise(split.images)).argmax(1) == split.labels).double().mean()
    assert robust_accuracy(network, split, RobustAccuracy(restarts=3, eps=0.0)) == pytest.approx(
        float(accuracy)
    )


def test_fewer_rows_are_spread_over_the_split() -> None:
    assert RobustAccuracy(max_samples=4).rows(10).tolist() == [0, 2, 5, 7]
    assert RobustAccuracy(max_samples=40).rows(3).tolist() == [0, 1, 2]
    assert RobustAccuracy().rows(3).tolist() == [0, 1, 2]


def test_an_extra_output_breaks_nothing() -> None:
    network = nonlinear_network(num_classes=5)
    split = noise(100, num_classes=4)
    with torch.no_grad():
        split.labels = network(split.normalise(split.images))[:, :4].argmax(1)
    table = RobustAccuracy(restarts=1, eps=0.0)
    assert robust_accuracy(network, split, table, num_extra=1) == 1.0
    assert robust_accuracy(network, split, table) < 1.0


def run(
    folder: Path, robust: RobustAccuracy, *, objective: Objective | None = None, **fields: Any
) -> Progress:
    """Returns the last progress of a training on digits."""
    options: dict[str, Any] = {
        "model": Mlp(width=32, depth=1),
        "method": Static(density=0.5),
        "epochs": 3,
    } | fields
    recipe = Recipe(
        budget=Budget(epochs=options.pop("epochs"), batch_size=64, evaluate_every=0),
        optimizer=SGD(lr=0.1),
        **({"objective": objective} if objective else {}),
    )
    context = Context(checkpoints=CheckpointFolder(folder))
    data = Digits().load()
    *_, last = train(recipe, data=data, seed=2, context=context, robust=robust, **options)
    return last


def measured(progress: Progress) -> dict[str, float]:
    return {f"{metric.split}/{metric.name}": metric.value for metric in progress.metrics}


def test_a_training_measures_its_finished_network_and_counts_no_work(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", RobustAccuracy())
    attacked = run(tmp_path / "attacked", RobustAccuracy(restarts=2, eps=0.1, num_steps=5))
    without = run(tmp_path / "without", RobustAccuracy(restarts=2, eps=0.0))
    first, second = measured(plain), measured(attacked)
    robust = second.pop("test/robust_accuracy")
    assert first == second
    assert 0 < robust < second["test/accuracy"]
    assert measured(without)["test/robust_accuracy"] == second["test/accuracy"]
    assert plain.outcome is not None
    assert attacked.outcome is not None
    assert all(
        torch.equal(tensor, attacked.outcome.weights[name]) for name, tensor in plain.outcome.weights.items()
    )


@each_case(
    ("fields", "rule"),
    [
        ({"restarts": -1}, r"^restarts is -1"),
        ({"eps": 8.0}, r"^eps is 8.0"),
        ({"num_steps": 0}, r"^num_steps is 0"),
        ({"total_step_size": -1.0}, r"^total_step_size is -1.0"),
        ({"max_samples": 0}, r"^max_samples is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        RobustAccuracy(**fields)
