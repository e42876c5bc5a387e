"""A digest of a network as an object: equal for equal networks, different wherever anything differs."""

import copy

import pytest
import torch
from torch import nn

from pruneyard.workloads.networks.digest import network_digest


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.1), nn.Linear(3, 2))


def test_networks_built_alike_have_one_digest() -> None:
    digest = network_digest(network())
    assert digest is not None
    assert digest == network_digest(network()) == network_digest(copy.deepcopy(network()))


def change_weight(net):
    with torch.no_grad():
        net[0].weight[1, 2] += 1e-6


def change_buffer(net):
    net[1].running_mean[0] = 1


def freeze(net):
    net[0].weight.requires_grad_(False)


def tie(net):
    net[3].bias.data = net[0].bias.data[:2].copy_(net[3].bias.data)


def change_rate(net):
    net[2].p = 0.2


def change_mode(net):
    net[1].eval()


def lay_out_anew(net):
    net[0].weight.data = net[0].weight.data.t().contiguous().t()


@pytest.mark.parametrize("change", [change_weight, change_buffer, freeze, tie, change_rate, change_mode, lay_out_anew])
def test_any_change_shows(change) -> None:
    changed = network()
    change(changed)
    assert network_digest(changed) != network_digest(network())


def test_shared_memory_shows_even_where_all_values_are_equal() -> None:
    apart, tied = (nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(2)) for _ in range(2))
    for layers in (apart, tied):
        for layer in layers:
            nn.init.ones_(layer.weight)
    tied[1].weight.data = tied[0].weight.data
    assert network_digest(apart) != network_digest(tied)


def test_a_network_with_a_function_without_a_name_has_none() -> None:
    net = network()
    net.own = lambda x: x
    assert network_digest(net) is None
