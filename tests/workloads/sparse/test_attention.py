"""Attention under masks: pruned, counted by hand, and exported."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from pruneyard.testing.cases import each_case
from pruneyard.testing.finished_networks import random_mask
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.deploy.format import Format, relative_difference
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.networks.flops import count_macs, forward_flops, network_macs
from pruneyard.workloads.networks.weight_reads import weights_read_directly
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.sparse.job import SparseJob
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.sparse.uncovered import uncovered_parts
from pruneyard.workloads.training.recipe import Budget

SHAPE = (1, 8, 8)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return tokens + self.mlp(tokens)


class Transformer(nn.Module):
    """Two blocks over 16 tokens of width 32: our own, or torch's, which read the weights of their linear layers."""

    def __init__(self, *, of_torch: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, stride=2)
        self.positions = nn.Parameter(torch.randn(1, 16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.blocks = nn.Sequential(*(layer if of_torch else Block(32) for _ in range(1 if of_torch else 2)))
        self.classifier = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.classifier(self.blocks(tokens).mean(1))


@dataclass(frozen=True, kw_only=True)
class SmallTransformer:
    of_torch: bool = False

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        assert (image_shape, num_classes) == (SHAPE, 10)
        return Transformer(of_torch=self.of_torch)


def finished_transformer(*, of_torch: bool) -> FinishedNetwork:
    torch.manual_seed(0)
    network, generator = Transformer(of_torch=of_torch), torch.Generator().manual_seed(0)
    masks = {name: random_mask(0.2)(weight, generator) for name, weight in prunable_weights(network).items()}
    blueprint = Blueprint(model={"name": "plug-in"}, image_shape=SHAPE, num_outputs=10, mean=(0.5,), std=(0.25,))
    return FinishedNetwork.of(
        blueprint, weights=network.state_dict(), masks=masks, network=Transformer(of_torch=of_torch).eval()
    )


def test_multiply_adds_of_a_transformer_by_hand() -> None:
    macs = count_macs(Transformer(of_torch=False), SHAPE)
    block = {
        "attention.in_proj_weight": 16 * 3 * 32 * 32,
        "attention.out_proj.weight": 16 * 32 * 32,
        "mlp.0.weight": 16 * 32 * 64,
        "mlp.2.weight": 16 * 64 * 32,
    }
    assert macs.by_weight == {
        "patches.weight": 16 * 4 * 32,
        **{f"blocks.{index}.{name}": count for index in range(2) for name, count in block.items()},
        "classifier.weight": 32 * 10,
    }
    assert macs.other == 2 * (2 * 16 * 16 * 32)  # in each block: queries with keys, attention with values
    assert macs.dense_factors == ()


@each_case("widths", [{}, {"kdim": 5, "vdim": 3}])
def test_each_form_of_input_projection_is_counted(widths: dict[str, int]) -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **widths)

        def forward(self, images: Tensor) -> Tensor:
            batch = len(images)
            others = [images.new_zeros(batch, 7, widths.get(name, 8)) for name in ("kdim", "vdim")]
            return self.attention(images.new_zeros(batch, 4, 8), *others)[0]

    by_weight = count_macs(Crossed(), SHAPE).by_weight
    out = {"attention.out_proj.weight": 4 * 8 * 8}
    queries, keys, values = 4 * 8 * 8, 7 * 8 * widths.get("kdim", 8), 7 * 8 * widths.get("vdim", 8)
    if widths:
        assert by_weight == out | {
            "attention.q_proj_weight": queries,
            "attention.k_proj_weight": keys,
            "attention.v_proj_weight": values,
        }
    else:
        assert by_weight == out | {"attention.in_proj_weight": queries + keys + values}


def test_the_published_size_of_a_vision_transformer() -> None:
    with torch.device("meta"):
        macs = count_macs(models.vit_b_16(), (3, 224, 224))
    layer = 197 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert sum(macs.by_weight.values()) == 196 * 768 * 768 + 12 * layer + 768 * 1000
    assert macs.other == 12 * 2 * 197 * 197 * 768
    assert sum(macs.by_weight.values()) + macs.other == pytest.approx(17.56e9, rel=0.001)  # torchvision's own number


def test_the_density_of_a_transformer_is_the_one_asked_for() -> None:
    network = Transformer(of_torch=False)
    weights = dict(prunable_weights(network))
    masks = Static(density=0.2).start(weights, generator=torch.Generator().manual_seed(0)).masks
    active, size = sum(int(mask.sum()) for mask in masks.values()), sum(weight.numel() for weight in weights.values())
    assert active == round(0.2 * size)
    assert masks["blocks.0.attention.in_proj_weight"].float().mean() < 0.5
    macs = network_macs(network, SHAPE)
    by_hand = sum(2 * macs[name] * mask.float().mean().item() for name, mask in masks.items()) + 2 * 2 * 2 * 16 * 16 * 32
    assert forward_flops(macs, masks) == pytest.approx(by_hand)


@pytest.mark.parametrize("of_torch", [False, True])
@pytest.mark.parametrize("form", [form for form in names("deploy.formats") if form not in ("onnx", "semi_structured")])
def test_a_masked_transformer_is_exported_or_refused_by_name(form: str, of_torch: bool) -> None:
    network, chosen = finished_transformer(of_torch=of_torch), build(form)
    if refusal := chosen.fit(network).refusal:
        assert "in_proj_weight: MultiheadAttention has no sparse kernel" in refusal or "dead unit" in refusal
        return
    exported, images = chosen.build(network, batch_size=3), network.random_images(3)
    with torch.inference_mode():
        assert relative_difference(exported.run(images), network.network(images)) <= chosen.tolerance
    assert chosen.encode(network)
    if form == "csr":
        read = ["self_attn.out_proj", "linear1", "linear2"] if of_torch else ["attention.out_proj"]
        assert all(exported.kernels[f"blocks.0.{name}.weight"] == "dense" for name in read)
        assert "attention" in chosen.fit(network).dense[f"blocks.0.{read[0]}.weight"]
        assert exported.kernels["patches.weight"] == "csr"
        assert of_torch or exported.kernels["blocks.1.mlp.0.weight"] == "csr"


def build(form: str) -> Format:
    chosen: Format = find("deploy.formats", form)()
    return chosen


def test_a_weight_that_is_used_outside_its_layer_is_found() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Linear(64, 64) for _ in range(3))

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.second(self.first(images.flatten(1)))
            return nn.functional.linear(hidden, self.first.weight.t())

    assert weights_read_directly(Tied(), SHAPE) == {"first.weight"}
    assert count_macs(Tied(), SHAPE).by_weight == {
        "first.weight": 2 * 64 * 64,
        "second.weight": 64 * 64,
        "third.weight": 0,
    }


def test_a_weight_that_is_copied_before_its_product_is_counted() -> None:
    class Copied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.Parameter(torch.randn(2, 64, 5))
            self.linear = nn.Linear(64, 64)

        def forward(self, images: Tensor) -> Tensor:
            weight = self.linear.weight.to(torch.float64).float()
            hidden = nn.functional.linear(images.flatten(1), weight)
            return torch.einsum("bd,hdk->bhk", hidden, self.heads).flatten(1)

    macs = count_macs(Copied(), SHAPE)
    assert macs.by_weight == {"linear.weight": 64 * 64}
    assert (macs.other, macs.dense_factors) == (2 * 64 * 5, ("heads",))


class Odd(nn.Module):
    """A network with layers that cannot be pruned, counted or run by a sparse kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 8)
        self.own = nn.Parameter(torch.randn(64, 8))
        self.stem = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.pair = nn.Bilinear(8, 8, 8)
        self.norm = nn.LayerNorm((1, 8))
        self.depthwise = nn.Conv1d(8, 8, 1, groups=8)
        self.standardised = nn.Linear(8, 8)
        self.classifier = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images.flatten(1) @ self.own) + self.words.weight[0]
        hidden = self.rnn(hidden[:, None])[0]
        hidden = self.depthwise(self.norm(hidden).transpose(1, 2))[:, :, 0]
        weight = self.standardised.weight
        hidden = nn.functional.linear(self.pair(hidden, hidden), weight - weight.mean())
        return self.classifier(hidden)


def test_what_cannot_be_pruned_counted_or_exported_is_named() -> None:
    first, second, pruned, kernel, read = uncovered_parts(Odd(), SHAPE, prunes=True)
    assert "leave out standardised.weight" in first
    assert "leave out pair" in second
    for name in ("own", "pair.weight", "rnn.weight_ih_l0", "and 3 more"):
        assert name in pruned
    assert "norm" not in pruned
    assert "depthwise.weight dense" in kernel
    assert "standardised.weight dense" in read
    assert uncovered_parts(Odd(), SHAPE, prunes=False) == [first, second]
    assert uncovered_parts(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), SHAPE, prunes=True) == []


def test_a_plan_names_the_attention_that_no_kernel_runs() -> None:
    data, budget = Digits(), Budget(epochs=1, batch_size=128)
    sparse = SparseJob(data=data, model=SmallTransformer(), method=Static(density=0.2), budget=budget)
    kernel, read = sparse.check(data.load())
    assert "blocks.0.attention.in_proj_weight, blocks.1.attention.in_proj_weight dense: MultiheadAttention" in kernel
    assert "blocks.0.attention.out_proj.weight, blocks.1.attention.out_proj.weight dense" in read
    assert SparseJob(data=data, model=SmallTransformer(), method=Dense(), budget=budget).check(data.load()) == []
