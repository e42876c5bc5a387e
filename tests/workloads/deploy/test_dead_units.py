"""Units that are removed from a network, which computes the same without them."""

import copy

import torch
from torch import nn

from pruneyard.testing.cases import each_case
from pruneyard.testing.finished_networks import finished_of, randomize_norms
from pruneyard.workloads.deploy.dead_units import dead_units, resize, without_units


def same(network: nn.Module, inputs: torch.Tensor, *, atol: float = 1e-5) -> nn.Module:
    """Returns the smaller network, after checking that outputs are equal and the original is unchanged."""
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        smaller = without_units(network.eval())
        torch.testing.assert_close(smaller(inputs), network(inputs), rtol=1e-4, atol=atol)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    return smaller


def test_a_unit_without_inputs_adds_its_constant_to_the_next_bias() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    first, second = network[0], network[2]
    first.weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    first.bias.data = torch.tensor([0.0, 3.0])
    second.weight.data = torch.tensor([[1.0, 10.0]])
    second.bias.data = torch.tensor([0.5])
    smaller = same(network, torch.randn(5, 2))
    assert dead_units(network) == {"0.weight": 1}
    assert smaller[2].weight.tolist() == [[1.0]]  # type: ignore[index]
    assert smaller[2].bias.tolist() == [30.5]  # type: ignore[index]


def test_a_network_that_gets_the_sizes_of_its_weights_keeps_what_is_frozen() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    network[0].weight.requires_grad_(False)
    sizes = {"0.weight": (1, 2), "0.bias": (1,), "2.weight": (1, 1), "2.bias": (1,)}
    resize(network, {name: torch.ones(size) for name, size in sizes.items()})
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen == ["0.weight", "2.bias"]
    assert network[0].weight.shape == (1, 2)


def test_a_unit_that_nothing_reads_is_cut_and_with_it_what_only_it_read() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    network[4].weight.data[:, 1] = 0  # nobody reads unit 1 of the second layer,
    network[2].weight.data[[0, 2], 2] = 0  # which alone read unit 2 of the first
    assert dead_units(network) == {"0.weight": 1, "2.weight": 1}
    same(network, torch.randn(6, 4))


def test_one_unit_stays_where_all_are_dead() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    network[2].weight.data.zero_()
    smaller = same(network, torch.randn(6, 4))
    assert smaller[0].weight.shape == (1, 4)  # type: ignore[index]


def convolutions(norm: nn.Module, padding: int) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), norm, nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(5, 3, 3, padding=padding)
    )
    randomize_norms(network)
    network[0].weight.data[1] = 0
    return network


@each_case("norm", [nn.BatchNorm2d(5), nn.GroupNorm(5, 5), nn.Identity()])
@each_case("positive", [True, False])
def test_a_constant_map_is_cut_unless_padding_gives_it_a_border(norm: nn.Module, positive: bool) -> None:
    for padding in (0, 1):
        network = convolutions(norm, padding)
        last = norm if hasattr(norm, "bias") else network[0]
        last.bias.data[1] = 2.0 if positive else -9.0  # type: ignore[index, union-attr]
        is_cut = bool(dead_units(network))
        assert is_cut == (padding == 0 or not positive)
        same(network, torch.randn(2, 2, 8, 8), atol=1e-4)


def test_maps_that_are_flattened_take_all_their_features_along() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    network[0].weight.data[2] = 0
    network[0].bias.data[2] = 0.7
    smaller = same(network, torch.randn(3, 1, 8, 8))
    assert smaller[4].weight.shape == (3, 27)  # type: ignore[index]


def test_norms_that_mix_channels_keep_their_units() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 3, 3))
    network[0].weight.data[1] = 0
    assert dead_units(network) == {}


def test_a_layer_that_runs_twice_keeps_its_units() -> None:
    shared = nn.Linear(4, 4)
    shared.weight.data[1] = 0
    assert dead_units(nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 2))) == {}


@each_case(
    ("model", "shape"),
    [
        ({"name": "mlp", "width": 24, "depth": 3}, (1, 6, 6)),
        ({"name": "convnet", "width": 12, "depth": 2}, (3, 8, 8)),
        ({"name": "convnet", "width": 12, "depth": 2, "norm": "batch"}, (3, 8, 8)),
        ({"name": "convnet", "width": 12, "depth": 2, "norm": "none", "pooling": "max"}, (1, 28, 28)),
        ({"name": "resnet20"}, (3, 8, 8)),
        ({"name": "wrn22_2"}, (3, 8, 8)),
    ],
    ids=str,
)
def test_networks_that_lost_whole_units_compute_the_same(
    model: dict[str, object], shape: tuple[int, int, int]
) -> None:
    def rows(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        kept = torch.rand(len(weight), generator=generator) < 0.6
        inputs = torch.rand(weight.shape[1], generator=generator) < 0.8
        kept[0] = inputs[0] = True
        mask = kept[:, None] & inputs
        return mask.reshape(*mask.shape, *(1,) * (weight.ndim - 2)).expand_as(weight).contiguous()

    network = finished_of(model, shape, rows, except_for=("classifier.weight",))
    assert dead_units(network.network)
    smaller = same(network.network, network.random_images(3), atol=1e-4)
    count = [sum(p.numel() for p in n.parameters()) for n in (network.network, smaller)]
    assert count[1] < count[0]
