import numpy as np
import torch
from torch import nn

from pruneyard.testing.cases import each_case
from pruneyard.workloads.masks.masks import (
    active_per_layer,
    hash_masks,
    layer_densities,
    prunable_weights,
    random_masks,
    random_subset,
    select_largest,
)


class Mixed(nn.Module):
    """A network with one of each kind of layer, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.stem = nn.Conv1d(6, 4, 3)
        self.norm = nn.LayerNorm([4, 5])
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.attention = nn.MultiheadAttention(4, 2)
        self.blocks = nn.Sequential(
            nn.Linear(4, 4), nn.BatchNorm1d(4), nn.PReLU(), nn.Linear(4, 4, bias=False)
        )
        self.again = self.blocks[0]
        self.head = nn.Linear(4, 3)


def test_prunable_are_the_weights_of_convolutions_linear_layers_and_attention_in_module_order() -> None:
    assert list(prunable_weights(Mixed())) == [
        "stem.weight",
        "up.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "blocks.0.weight",
        "blocks.3.weight",
        "head.weight",
    ]


def test_prunable_weights_are_the_models_own_parameters() -> None:
    model = Mixed()
    parameters = dict(model.named_parameters())
    assert all(weight is parameters[name] for name, weight in prunable_weights(model).items())


def test_a_weight_tied_to_another_layer_comes_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert list(prunable_weights(model)) == ["0.weight"]


def test_random_masks_have_exact_counts_and_the_generators_draw() -> None:
    weights = {"a": torch.empty(7, 5), "b": torch.empty(3, 2, 2, 2).to(memory_format=torch.channels_last)}
    counts = {"a": 11, "b": 24}
    masks = random_masks(weights, counts, generator=torch.Generator().manual_seed(3))
    again = random_masks(weights, counts, generator=torch.Generator().manual_seed(3))
    other = random_masks(weights, counts, generator=torch.Generator().manual_seed(4))
    assert active_per_layer(masks) == counts
    assert all(mask.dtype == torch.bool and mask.shape == weights[name].shape for name, mask in masks.items())
    assert hash_masks(masks) == hash_masks(again) != hash_masks(other)


@each_case("count", [1, 5, 9])
def test_every_index_is_drawn_equally_often(count: int) -> None:
    draws = torch.Generator().manual_seed(0)
    seen = torch.zeros(10)
    for _ in range(2000):
        chosen = random_subset(10, count, draws)
        assert len(chosen.unique()) == count
        seen[chosen] += 1
    spread = (2000 * count / 10 * (1 - count / 10)) ** 0.5
    assert ((seen - 2000 * count / 10).abs() < 5 * spread).all()


def test_densities_are_active_shares() -> None:
    masks = {"a": torch.tensor([True, False, False, False]), "b": torch.ones(2, 2, dtype=torch.bool)}
    assert layer_densities(masks) == {"a": 0.25, "b": 1.0}
    assert layer_densities({}) == {}


def test_the_hash_knows_names_shapes_and_entries_and_no_order() -> None:
    first, second = torch.tensor([True, False, True]), torch.tensor([[True], [False], [False]])
    masks = {"a": first, "b": second}
    assert hash_masks(masks) == hash_masks({"b": second.clone(), "a": first.clone()})
    assert hash_masks(masks) != hash_masks({"a": first, "c": second})
    assert hash_masks(masks) != hash_masks({"a": first, "b": second.T})
    assert hash_masks(masks) != hash_masks({"a": ~first, "b": second})


@each_case("size", [1, 100, 8_191, 8_192, 50_000])
@each_case("kind", ["plain", "tied", "equal", "mostly masked", "sorted", "periodic"])
def test_selection_equals_sorting_for_any_sample(size: int, kind: str) -> None:
    draws = np.random.default_rng(size)
    values = draws.standard_normal(size).astype(np.float32)
    if kind == "tied":
        values = np.round(values, 1)
    if kind == "equal":
        values[:] = 0
    if kind == "mostly masked":
        values[draws.random(size) < 0.95] = -np.inf
    if kind == "sorted":
        values.sort()
    if kind == "periodic":  # every place that the sample looks at holds the same value
        values[:: max(1, size // 4096)] = 9
    for count in {1, 2, size // 10 + 1, size // 2 + 1, size}:
        if count <= size:
            assert select_largest(values, count) == np.sort(values)[-count]
