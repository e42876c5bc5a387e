"""Smaller dense networks from which coupled channels were removed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.models.narrowed import Narrowed
from pruneyard.workloads.models.resnet18 import ResNet18
from pruneyard.workloads.models.resnet20 import ResNet20
from pruneyard.workloads.models.resnet50 import ResNet50
from pruneyard.workloads.models.vgg11 import Vgg11
from pruneyard.workloads.models.vit_tiny import ViTTiny
from pruneyard.workloads.models.wrn22_2 import Wrn22x2
from pruneyard.workloads.networks.attention_heads import AttentionOfHeads
from pruneyard.workloads.networks.channel_graph import FIXED, UntraceableError, channel_graph
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.networks.flops import forward_flops, network_macs
from pruneyard.workloads.networks.narrowing import masks_without_groups, without_groups
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.job import SparseJob
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.narrow import Narrow, group_magnitudes
from pruneyard.workloads.training.recipe import Budget
from pruneyard.workloads.workload import Context

IMAGE = (3, 32, 32)
MODELS: dict[str, Any] = {
    "mlp": Mlp(width=24),
    "convnet": ConvNet(width=12),
    "convnet, batch norm": ConvNet(width=12, norm="batch", pooling="max"),
    "resnet20": ResNet20(),
    "resnet18": ResNet18(),
    "vit_tiny": ViTTiny(width=24, depth=2, heads=2),
}


def network_of(model: Any, shape: tuple[int, ...] = IMAGE) -> nn.Module:
    """Returns a network in evaluation mode whose norms are no identities."""
    torch.manual_seed(0)
    network: nn.Module = model.build(image_shape=shape, num_classes=10).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.GroupNorm):
            for tensor in (module.weight, module.bias, getattr(module, "running_mean", None)):
                if tensor is not None:
                    nn.init.normal_(tensor, 0.5, 0.5) if isinstance(tensor, nn.Parameter) else tensor.normal_()
    return network


def outputs(network: nn.Module, shape: tuple[int, ...] = IMAGE) -> Tensor:
    images = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network(images)


each_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "resnet18" else []) for name in MODELS]
)


@each_model
def test_masked_and_smaller_network_have_equal_logits(name: str) -> None:
    """In float64, up to the order of sums."""
    network = network_of(MODELS[name])
    graph, removed = Narrow(flops=0.6).removed(network, IMAGE, seed=0)
    smaller = without_groups(network, graph, removed)
    paths = {name: name.removesuffix(".weight").removesuffix("_weight") for name in prunable_weights(network)}
    traced = {name: network.get_parameter(name) for name, path in paths.items() if path in graph.rows}
    masks = masks_without_groups(traced, graph, removed)
    with torch.no_grad():
        for key, mask in masks.items():
            network.get_parameter(key).mul_(mask)
    expected = outputs(network)
    torch.testing.assert_close(outputs(smaller), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 1e-3
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in network.parameters())


@each_model
def test_flops_are_at_most_the_share_and_miss_it_by_one_group(name: str) -> None:
    network = network_of(MODELS[name])
    dense = forward_flops(network_macs(network, IMAGE), {})
    graph, removed = Narrow(flops=0.6).removed(network, IMAGE, seed=0)
    left = forward_flops(network_macs(without_groups(network, graph, removed), IMAGE), {}) / dense
    assert 0.6 - 0.12 < left <= 0.6


def test_residual_sums_couple_channels_and_zero_channels_join_the_branch() -> None:
    """ResNet-20 pads 8 zero channels on both sides: channel i of stage 1 is channel 8 + i of stage 2."""
    graph = channel_graph(network_of(ResNet20()), IMAGE)
    stem = graph.outputs["stem"]
    assert len(set(stem.tolist())) == 16
    for block in range(3):
        assert (graph.outputs[f"stage1.{block}.branch.3"] == stem).all()
        assert (graph.outputs[f"stage2.{block}.branch.3"][8:24] == stem).all()
    inner = set(graph.outputs["stage1.0.branch.0"].tolist())
    assert not inner & set(stem.tolist())
    assert set(graph.outputs["classifier"].tolist()) == {FIXED}


def test_flattened_pixels_follow_their_channel() -> None:
    graph = channel_graph(network_of(ConvNet(width=4, depth=1), (1, 8, 8)), (1, 8, 8))
    assert (graph.inputs["classifier"] == graph.outputs["block1.conv"].repeat(16)).all()


def test_what_layer_norm_or_attention_reads_is_fixed() -> None:
    graph = channel_graph(network_of(MODELS["vit_tiny"]), IMAGE)
    assert set(graph.outputs["embedding.patches"].tolist()) == {FIXED}
    assert set(graph.outputs["block1.mlp.3"].tolist()) == {FIXED}
    assert FIXED not in graph.outputs["block1.mlp.0"]


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_of_heads_computes_what_attention_computes(need_weights: bool) -> None:
    attention = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    expected, weights = attention(tokens, tokens, tokens, need_weights=need_weights)
    found, found_weights = AttentionOfHeads.of(attention)(tokens, tokens, tokens, need_weights=need_weights)
    torch.testing.assert_close(found, expected)
    assert (found_weights is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(found_weights, weights)


def test_heads_are_removed_as_a_whole_and_at_least_one_stays() -> None:
    """The FLOPs while groups are removed are those of the smaller network: products of activations are fewer too."""
    network = network_of(ViTTiny(width=24, depth=2, heads=4))
    graph = channel_graph(network, IMAGE)
    heads = sorted({*graph.heads["block1.attention"].tolist()})
    assert len(heads) == 4
    narrow = Narrow(flops=0.3)
    _, removed = narrow.removed(network, IMAGE, seed=0)
    smaller = without_groups(network, graph, removed)
    left = [block.attention.num_heads for block in (smaller.block1, smaller.block2)]
    assert all(1 <= num < 4 for num in left)
    flops = [forward_flops(network_macs(each, IMAGE), {}) for each in (network, smaller)]
    assert 0.2 < flops[1] / flops[0] <= 0.3
    again = channel_graph(smaller, IMAGE)
    assert len({*again.heads["block1.attention"].tolist()}) == left[0]
    assert torch.equal(outputs(without_groups(smaller, again, set())), outputs(smaller))
    one_less = without_groups(network, graph, {heads[1]})
    assert [block.attention.num_heads for block in (one_less.block1, one_less.block2)] == [3, 4]


def test_importance_by_hand() -> None:
    """Two hidden units: rows with mean magnitudes 1 and 3, columns with 4 and 2; their layers have means 2 and 3."""
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 4.0]]))
        network[2].weight.copy_(torch.tensor([[4.0, -2.0], [4.0, 2.0]]))
    graph = channel_graph(network, (2,))
    first, second = graph.outputs["0"].tolist()
    found = group_magnitudes(network, graph)
    assert found[first] == pytest.approx((1 / 2 + 4 / 3) / 2)
    assert found[second] == pytest.approx((3 / 2 + 2 / 3) / 2)


class Reshaping(nn.Module):
    """Mixes channels and pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.classifier = nn.Linear(900, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.first(images).reshape(-1, 900))


class Deciding(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


def test_what_cannot_be_traced_is_refused_with_its_name() -> None:
    for network, name in (
        (Reshaping(), "reshape is a call of reshape"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.PixelShuffle(2)), "1 is a PixelShuffle"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2)), "1 has 2 groups"),
        (Deciding(), "Deciding cannot be traced"),
    ):
        with pytest.raises(UntraceableError, match=name):
            channel_graph(network, IMAGE)


def test_depthwise_layers_lose_the_channels_of_their_inputs() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.LazyLinear(10)
    ).double()
    outputs(network)
    network.eval()
    graph, removed = Narrow(flops=0.5).removed(network, IMAGE, seed=0)
    smaller = without_groups(network, graph, removed)
    assert outputs(smaller).shape == (3, 10)
    assert smaller[2].groups == smaller[2].in_channels == smaller[0].out_channels < 8


def test_all_of_it_and_too_little() -> None:
    network = network_of(Mlp(width=8), (4,))
    assert Narrow().removed(network, (4,), seed=0)[1] == set()
    with pytest.raises(ValueError, match=r"narrow\.flops is 0.001; at least"):
        Narrow(flops=0.001).removed(network, (4,), seed=0)


@pytest.mark.parametrize(
    "model",
    [Mlp(width=24), ConvNet(width=8, depth=2), ResNet20(), ViTTiny(width=16, depth=1, heads=4)],
    ids=lambda model: type(model).__name__,
)
def test_the_artifact_of_the_smaller_network_is_read_again(model: Any, tmp_path: Path) -> None:
    """It is rebuilt from the weights and a blueprint that has gone through JSON's types; the logits are those of the run."""
    data = Digits(max_train=100, max_test=40).load()
    job = SparseJob(
        data=Digits(),
        model=model,
        method=Dense(),
        narrow=Narrow(flops=0.5),
        budget=Budget(steps=3, batch_size=32, evaluate_every=0),
    )
    job.check(data)
    *_, last = job.run(Context(checkpoints=CheckpointFolder(tmp_path), load_data=lambda _: data))
    assert last.outcome is not None
    assert last.outcome.blueprint is not None
    blueprint = Blueprint.of_table(json.loads(json.dumps(last.outcome.blueprint)))
    read = FinishedNetwork.of(blueprint, weights=last.outcome.weights, masks=last.outcome.masks)
    images = torch.from_numpy(data.test.images).float() / 255
    images = (images - data.mean[0]) / data.std[0]
    with torch.no_grad():
        logits = read.network(images)
    torch.testing.assert_close(logits, torch.from_numpy(last.outcome.predictions["test"].logits), rtol=1e-4, atol=1e-4)
    whole = model.build(image_shape=data.image_shape, num_classes=10)
    assert last.outcome.num_parameters < sum(p.numel() for p in whole.parameters())
    assert read.forward_flops <= 0.5 * forward_flops(network_macs(whole, data.image_shape), {})


def test_channels_that_do_not_fit_are_refused() -> None:
    for channels, words in (
        ((("hidden3", (0,)),), "channels has hidden3"),
        ((("classifier", (0, 1)),), "channels do not fit"),
    ):
        with pytest.raises(ValueError, match=words):
            Narrowed(base=Mlp(width=8), channels=channels).build(image_shape=(4,), num_classes=10)
    coupled = (("stem", tuple(range(15))),)
    with pytest.raises(ValueError, match="channels do not fit"):
        Narrowed(base=ResNet20(), channels=coupled).build(image_shape=IMAGE, num_classes=10)


@pytest.mark.slow
@pytest.mark.parametrize("model", [ResNet50(), Vgg11(), Wrn22x2()], ids=lambda model: type(model).__name__)
def test_larger_networks_are_traced_too(model: Any) -> None:
    network = network_of(model)
    graph, removed = Narrow(flops=0.5).removed(network, IMAGE, seed=0)
    assert outputs(without_groups(network, graph, removed)).isfinite().all()


@pytest.mark.slow
def test_channels_of_least_magnitude_cost_a_trained_network_less_than_random_ones(tmp_path: Path) -> None:
    """Digits, no fine-tuning, half of the FLOPs: mean test accuracy of three networks."""
    data, model = Digits().load(), ConvNet(width=16, depth=2, norm="batch")
    accuracy = dict.fromkeys(("magnitude", "random"), 0.0)
    mean, std = data.mean[0], data.std[0]
    images = (torch.from_numpy(data.test.images).float() / 255 - mean) / std
    for seed in range(3):
        job = SparseJob(
            data=Digits(),
            model=model,
            method=Dense(),
            optimizer=SGD(lr=0.05, momentum=0.9),
            budget=Budget(epochs=8, batch_size=64, evaluate_every=0),
            seed=seed,
        )
        *_, last = job.run(Context(checkpoints=CheckpointFolder(tmp_path / str(seed)), load_data=lambda _: data))
        assert last.outcome is not None
        network = model.build(image_shape=data.image_shape, num_classes=10).eval()
        network.load_state_dict(dict(last.outcome.weights))
        for importance in ("magnitude", "random"):
            graph, removed = Narrow(flops=0.5, importance=importance).removed(network, data.image_shape, seed=seed)
            with torch.no_grad():
                predicted = without_groups(network, graph, removed)(images).argmax(1)
            accuracy[importance] += float((predicted == torch.from_numpy(data.test.labels)).float().mean()) / 3
    assert accuracy["magnitude"] > accuracy["random"]
