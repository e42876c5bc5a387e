"""Removing residual blocks before training: which blocks there are, what stays, and digits."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.layer_lottery import LayerLottery, removed_blocks
from pruneyard.workloads.models.resnet18 import ResNet18
from pruneyard.workloads.models.resnet20 import ResNet20
from pruneyard.workloads.models.vit_tiny import ViTTiny
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.finished import Blueprint
from pruneyard.workloads.networks.removable_blocks import distortions_without, removable_blocks
from pruneyard.workloads.seeding import global_stream
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context, Outcome

SHAPE = (1, 8, 8)


class Residual(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)
        nn.init.constant_(self.inner.weight, scale)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.inner(inputs)


def small() -> nn.Sequential:
    """Returns a layer, two residual blocks of which the second one does more, a layer that keeps the shape, and a last layer."""
    return nn.Sequential(nn.Linear(4, 4), Residual(0.01), Residual(1.0), nn.Linear(4, 4), nn.Linear(4, 2))


def test_a_block_is_what_returns_its_input_when_all_its_parameters_are_zero() -> None:
    network = small()
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    assert removable_blocks(network, torch.randn(3, 4)) == ["1", "2"]
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())


def test_a_score_is_the_squared_change_of_the_logits_over_their_variance() -> None:
    network, images = small(), torch.randn(5, 4)
    found = distortions_without(network, ["1", "2"], images)
    with torch.no_grad():
        logits, without = network(images), network[3:](network[1](network[0](images)))
    expected = (without - logits).square().mean() / logits.var(dim=0).mean()
    assert found["2"] == pytest.approx(float(expected), rel=1e-4)  # float32 against float64
    assert found["1"] < found["2"]


@pytest.mark.parametrize(
    ("base", "num"), [(ResNet20(), 7), (ResNet18(), 5), (ViTTiny(width=16, depth=6, heads=2), 6), (ConvNet(), 0)]
)
def test_the_blocks_with_identity_shortcuts_can_be_removed(base: ModelBuilder, num: int) -> None:
    with global_stream(0, "init"):
        network = base.build(image_shape=(1, 16, 16), num_classes=3).eval()
    assert len(removable_blocks(network, torch.randn(2, 1, 16, 16))) == num


def build(model: ModelBuilder) -> nn.Module:
    with global_stream(5, "init"):
        return model.build(image_shape=SHAPE, num_classes=10)


def test_what_is_left_starts_with_the_weights_of_the_whole_network() -> None:
    whole, part = build(ResNet20()).state_dict(), build(LayerLottery(base=ResNet20(), drop=4)).state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in part.items())
    gone = {name.rpartition(".branch.")[0] for name in whole.keys() - part.keys()}
    assert gone == set(removed_blocks(LayerLottery(base=ResNet20(), drop=4), SHAPE, 10))
    assert len(gone) == 4


def test_without_a_dropped_block_it_is_the_base_model() -> None:
    images = torch.randn(2, *SHAPE)
    assert torch.equal(build(LayerLottery(base=ResNet20(), drop=0))(images), build(ResNet20())(images))


def test_random_choices_depend_on_their_seed_alone() -> None:
    models = [LayerLottery(base=ResNet20(), drop=3, choice="random", choice_seed=seed) for seed in range(8)]
    chosen = {removed_blocks(model, SHAPE, 10) for model in models}
    assert len(chosen) > 1
    removed_blocks.cache_clear()
    assert {removed_blocks(model, SHAPE, 10) for model in models} == chosen


def test_more_blocks_than_there_are_cannot_be_dropped() -> None:
    with pytest.raises(ValueError, match="drop is 8, but base has 7 residual blocks"):
        build(LayerLottery(base=ResNet20(), drop=8))


def test_a_finished_network_is_rebuilt_from_its_table_without_the_same_blocks() -> None:
    table = {"name": "layer_lottery", "base": {"name": "resnet20"}, "drop": 3}
    blueprint = Blueprint(model=table, image_shape=SHAPE, num_outputs=10, mean=(0.0,), std=(1.0,))
    assert blueprint.empty_network().state_dict().keys() == build(LayerLottery(base=ResNet20(), drop=3)).state_dict().keys()


def trained(model: ModelBuilder, seed: int) -> tuple[float, Outcome]:
    recipe = Recipe(budget=Budget(epochs=3, batch_size=64, evaluate_every=0, checkpoint_every_s=1e9))
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)))
        *_, last = train(recipe, model=model, method=Dense(), data=Digits().load(), seed=seed, context=context)
    (accuracy,) = [m.value for m in last.metrics if (m.split, m.name) == ("test", "accuracy")]
    assert last.outcome is not None
    return accuracy, last.outcome


@pytest.mark.slow
def test_a_network_without_blocks_has_the_accuracy_of_the_whole_one_at_fewer_flops() -> None:
    whole = [trained(ResNet20(), seed) for seed in range(2)]
    part = [trained(LayerLottery(base=ResNet20(), drop=4), seed) for seed in range(2)]
    assert np.mean([accuracy for accuracy, _ in part]) > np.mean([accuracy for accuracy, _ in whole]) - 0.02
    assert part[0][1].train_flops < 0.6 * whole[0][1].train_flops
