"""Attention and embeddings from stored values against torch's own modules, and which networks' weights can be stored sparse."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from pruneyard.workloads.execution.attention import AttentionOfLayers
from pruneyard.workloads.execution.layers import candidates_of
from pruneyard.workloads.execution.lookups import lookups_per_image
from pruneyard.workloads.execution.measurement import is_lookup_faster
from pruneyard.workloads.execution.modules import SparseEmbedding, SparseLinear, can_be_sparse
from pruneyard.workloads.masks.choice import choose_prunable
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.masks.sparse_index import SparseIndex

WIDTH, HEADS, TOKENS, ROWS = 8, 2, 5, 3
PADDING = torch.tensor([[False] * 5, [False, False, True, True, True], [False, False, False, False, True]])
CAUSAL = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stored(parameter: nn.Parameter, mask: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[mask])


def twins(**options: Any) -> tuple[nn.MultiheadAttention, AttentionOfLayers, dict[str, Tensor]]:
    """Returns attention with zeros outside masks, its twin with stored values, and the masks."""
    attention = nn.MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **options)
    twin = AttentionOfLayers(nn.MultiheadAttention(WIDTH, HEADS, dtype=torch.float64, **options))
    twin.load_state_dict(attention.state_dict())
    masks = {name: random(*attention.get_parameter(name).shape) > 0.5 for name in ("in_proj_weight", "out_proj.weight")}
    with torch.no_grad():
        for name, mask in masks.items():
            attention.get_parameter(name).mul_(mask)
    twin.in_proj_weight = stored(attention.in_proj_weight, masks["in_proj_weight"])
    twin.out_proj.weight = stored(attention.out_proj.weight, masks["out_proj.weight"])
    twin.out_proj = SparseLinear(twin.out_proj, SparseIndex.of_mask(masks["out_proj.weight"]))
    return attention, twin.with_index(SparseIndex.of_mask(masks["in_proj_weight"])), masks


def inputs_of(kind: str, *, batch_first: bool) -> list[Tensor]:
    """Returns queries, keys and values."""
    if kind == "single":
        return [random(TOKENS, WIDTH)] * 3
    shape = (ROWS, TOKENS, WIDTH) if batch_first else (TOKENS, ROWS, WIDTH)
    return [random(*shape)] * 3 if kind == "self" else [random(*shape, seed=seed) for seed in range(3)]


@pytest.mark.parametrize("kind", ["self", "cross", "single"])
@pytest.mark.parametrize("options", [{"batch_first": True}, {"bias": False}], ids=["batch-first", "tokens-first"])
@pytest.mark.parametrize(
    "call",
    [
        {"need_weights": False},
        {"average_attn_weights": False},
        {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False},
        {"key_padding_mask": PADDING},
        {"key_padding_mask": PADDING, "attn_mask": CAUSAL, "need_weights": False},
        {"attn_mask": random(ROWS * HEADS, TOKENS, TOKENS)},
    ],
    ids=["plain", "weights-by-head", "causal", "padding", "both-masks", "mask-by-head"],
)
def test_outputs_and_gradients_are_those_of_torch(kind: str, options: dict[str, Any], call: dict[str, Any]) -> None:
    if kind == "single" and ("key_padding_mask" in call or call.get("attn_mask", CAUSAL).ndim == 3):
        pytest.skip("masks of several rows")
    attention, sparse, masks = twins(**options)
    given = inputs_of(kind, batch_first=options.get("batch_first", False))
    leaves = {id(each): each.requires_grad_() for each in given}
    (expected, weights), (found, found_weights) = attention(*given, **call), sparse(*given, **call)
    torch.testing.assert_close(found, expected)
    assert (weights is None) == (found_weights is None)
    if weights is not None:
        torch.testing.assert_close(found_weights, weights)
    upstream = random(*expected.shape, seed=9)
    names = [name for name, _ in attention.named_parameters()]
    gradients = [
        torch.autograd.grad(outputs, [*leaves.values(), *(module.get_parameter(name) for name in names)], upstream)
        for outputs, module in ((expected, attention), (found, sparse))
    ]
    torch.testing.assert_close(gradients[1][: len(leaves)], gradients[0][: len(leaves)])
    for name, dense, values in zip(names, *(each[len(leaves) :] for each in gradients), strict=True):
        torch.testing.assert_close(values, dense[masks[name]] if name in masks else dense)


def test_attention_whose_weights_are_dense_again_is_that_of_torch() -> None:
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
    inputs = inputs_of("self", batch_first=True)
    torch.testing.assert_close(AttentionOfLayers(attention)(*inputs), attention(*inputs))


def test_an_embedding_returns_the_masked_rows_and_sums_gradients_of_repeated_codes() -> None:
    dense = nn.Embedding(6, 4, dtype=torch.float64)
    mask = random(6, 4) > 0
    mask[3] = False
    with torch.no_grad():
        dense.weight.mul_(mask)
    layer = nn.Embedding(6, 4, dtype=torch.float64)
    layer.weight = stored(dense.weight, mask)
    sparse = SparseEmbedding(layer, SparseIndex.of_mask(mask))
    sparse.captured = []
    codes = torch.tensor([[5, 0], [3, 5], [5, 1]])
    assert torch.equal(sparse(codes), dense(codes))
    upstream = random(3, 2, 4, seed=2)
    dense(codes).backward(upstream)
    sparse(codes).backward(upstream)
    assert dense.weight.grad is not None
    assert sparse.weight.grad is not None
    torch.testing.assert_close(sparse.weight.grad, dense.weight.grad[mask])
    (captured,) = sparse.captured
    rows = torch.zeros(3, 4, dtype=torch.float64)
    captured.add_rows(rows, 3, 6)
    torch.testing.assert_close(rows, dense.weight.grad[3:])


@pytest.mark.parametrize("option", [{"padding_idx": 0}, {"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}])
def test_an_embedding_with_options_stays_masked(option: dict[str, Any]) -> None:
    assert can_be_sparse(nn.Embedding(3, 2))
    assert not can_be_sparse(nn.Embedding(3, 2, **option))


class Words(nn.Module):
    """Twelve lookups per image in one table and one in another."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 8), nn.Embedding(2, 8)

    def forward(self, images: Tensor) -> Tensor:
        codes = images.flatten(1).long()
        return self.words(codes).sum(1) + self.places(codes[:, 0])


def test_lookups_are_counted_and_a_large_table_is_faster_stored_sparse() -> None:
    assert lookups_per_image(Words(), (3, 2, 2)) == {"words.weight": 12, "places.weight": 1}
    mask = torch.rand((100_000, 16), generator=torch.Generator().manual_seed(0)) < 0.05
    assert is_lookup_faster(SparseIndex.of_mask(mask), rows=64, dtype=torch.float32)


def test_projections_of_torchvision_and_timm_transformers_can_be_sparse() -> None:
    with torch.device("meta"):
        ours = torchvision.models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32
        )
        theirs = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    found = [candidates_of(network, prunable_weights(network), (3, 32, 32)) for network in (ours, theirs)]
    layer = "encoder.layers.encoder_layer_0"
    assert {f"{layer}.self_attention.in_proj_weight", f"{layer}.self_attention.out_proj.weight"} < found[0]
    assert {"blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight"} < found[1]


def test_what_a_transformer_layer_of_torch_reads_itself_stays_masked() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.classifier = nn.Linear(8, 3)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.classifier(self.layer(images.flatten(2).transpose(1, 2)).mean(1))
            return logits

    network = Encoder()
    assert candidates_of(network, prunable_weights(network), (8, 2, 2)) == {"classifier.weight"}


def test_a_weight_that_an_embedding_shares_with_a_linear_layer_can_be_sparse() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.classifier = nn.Embedding(7, 4), nn.Linear(4, 7)
            self.classifier.weight = self.table.weight

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.classifier(self.table(images.flatten(1).long()).mean(1))
            return logits

    network = Tied()
    assert candidates_of(network, prunable_weights(network), (1, 2, 2)) == {"table.weight"}


def test_an_embedding_is_pruned_where_a_pattern_matches_it_alone() -> None:
    network = nn.ModuleDict({"table": nn.Embedding(4, 2), "head": nn.Linear(2, 3)})
    for patterns, expected in (
        ((), ["head.weight"]),
        (("*",), ["head.weight"]),
        (("*", "table.*"), ["table.weight", "head.weight"]),
        (("table.*",), ["table.weight"]),
        (("*", "table.*", "!table.*"), ["head.weight"]),
    ):
        choose_prunable(network, patterns)
        assert list(prunable_weights(network)) == expected
