"""Rules that every network for images or graphs must keep. Members are found by their files."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.plug_in import build
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.networks.builder import ModelBuilder, has_random_layers
from pruneyard.workloads.networks.last_layer import find_last_layer, last_layer, last_layer_name
from pruneyard.workloads.nodes.graph import GraphTensors
from pruneyard.workloads.nodes.sources.block_model import BlockModel
from pruneyard.workloads.plugins import names
from pruneyard.workloads.seeding import global_stream

FAMILY = "models"
SHAPES = ((3, 32, 32), (1, 28, 28), (3, 17, 23), (1, 8, 8))
NUM_CLASSES = 7

every_model = pytest.mark.parametrize("name", names(FAMILY))
every_node_model = pytest.mark.parametrize(("family", "name"), [("nodes.models", name) for name in names("nodes.models")])


def network_of(name: str, *, image_shape: tuple[int, int, int] = SHAPES[0], seed: int = 0) -> nn.Module:
    model: ModelBuilder = build(FAMILY, name)
    with global_stream(seed, "init"):
        return model.build(image_shape=image_shape, num_classes=NUM_CLASSES)


@contextmanager
def assert_draws(expected: bool) -> Iterator[None]:
    """Asserts that the block draws from torch's global generator, or that it does not."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before) is not expected


@every_model
def test_logits_are_finite_one_for_each_class_and_reach_every_parameter(name: str) -> None:
    """Images that are too small are refused when the network is built; no network may refuse images of 32x32."""
    for shape in SHAPES:
        try:
            network = network_of(name, image_shape=shape)
        except ValueError:
            if shape == SHAPES[0]:
                raise
            continue
        logits = network(torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)))
        assert logits.shape == (2, NUM_CLASSES)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
        logits.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


@every_model
def test_the_last_layer_is_linear_and_its_weights_can_be_pruned(name: str) -> None:
    """It is called `classifier`, or recorded as the last layer."""
    network = network_of(name)
    last = last_layer(network)
    assert isinstance(last, nn.Linear)
    assert last.out_features == NUM_CLASSES
    _, found = find_last_layer(network, torch.rand(2, *SHAPES[0]))
    assert found == last_layer_name(network)
    assert f"{found}.weight" in prunable_weights(network)


@every_model
def test_the_global_generator_decides_initial_weights(name: str) -> None:
    first, same_seed, other_seed = (network_of(name, seed=seed).state_dict() for seed in (1, 1, 2))
    assert first.keys() == same_seed.keys()
    assert all(torch.equal(tensor, same_seed[key]) for key, tensor in first.items())
    assert any(not torch.equal(tensor, other_seed[key]) for key, tensor in first.items())


@every_model
def test_only_a_network_with_dropout_draws_and_only_in_training(name: str) -> None:
    network, images = network_of(name), torch.rand(2, *SHAPES[0], generator=torch.Generator().manual_seed(0))
    with assert_draws(has_random_layers(build(FAMILY, name))):
        network.train()(images)
    with torch.inference_mode(), assert_draws(False):
        first = network.eval()(images)
        assert torch.equal(network(images), first)


def node_logits(network: Any) -> Tensor:
    graph = GraphTensors.of(BlockModel(num_nodes=60).load(), device=torch.device("cpu"), dtype=torch.float32)
    logits: Tensor = network.eval()(graph)
    return logits


@every_node_model
def test_every_node_gets_logits_by_weights_that_the_global_generator_decides(family: str, name: str) -> None:
    num_features = BlockModel(num_nodes=60).load().num_features
    logits = []
    for seed in (1, 1, 2):
        with global_stream(seed, "init"):
            network = build(family, name).build(num_features=num_features, num_classes=3)
        logits.append(node_logits(network))
        assert logits[-1].shape == (60, 3)
        assert logits[-1].isfinite().all()
        logits[-1].sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
