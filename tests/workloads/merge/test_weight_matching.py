"""Weight matching: permuted copies are undone, by hand and in networks with residual connections, and sparse ones stay sparse."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pruneyard.testing.finished_networks import random_mask
from pruneyard.testing.merging import MLP, RESNET, context_of, members_of
from pruneyard.workloads.merge.matching import Block, blocks_of, matched
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.methods.uniform import Uniform
from pruneyard.workloads.merge.methods.weight_matching import WeightMatching
from pruneyard.workloads.networks.channel_graph import channel_graph
from pruneyard.workloads.networks.finished import FinishedNetwork

CONVNET = {"name": "convnet", "width": 6, "depth": 2}
CNN = {"name": "vgg11", "width": 4}


def blocks(member: Member) -> list[Block]:
    return blocks_of(channel_graph(member.network.network, member.blueprint.image_shape), member.weights)


def permuted(member: Member, *, seed: int = 0) -> Member:
    """Returns the same network with its channels in a random order."""
    generator = np.random.default_rng(seed)
    weights, masks = dict(member.weights), dict(member.masks)
    for block in blocks(member):
        order = generator.permutation(block.size)
        weights, masks = block.permuted(weights, order), block.permuted(masks, order)
    network = FinishedNetwork.of(member.blueprint, weights=weights, masks=masks)
    return Member(run_key="permuted", network=network, spec=member.spec)


def logits(member: Member) -> Tensor:
    return context_of([member]).member_logits(member, "test")


def test_blocks_of_a_small_network_by_hand() -> None:
    """Two hidden layers: each block has the rows of one layer, its bias, and the columns of the next."""
    (member,) = members_of(1)
    found = blocks(member)
    assert [block.size for block in found] == [12, 12]
    assert {(axis.tensor, axis.axis) for axis in found[0].axes} == {
        ("hidden1.weight", 0),
        ("hidden1.bias", 0),
        ("hidden2.weight", 1),
    }


@pytest.mark.parametrize("model", [MLP, CONVNET, RESNET], ids=lambda model: model["name"])
def test_a_permuted_copy_computes_the_same_and_is_found_again(model: dict[str, Any]) -> None:
    """No barrier is left: the mean with the matched copy is the network itself, while the mean without matching is another."""
    (member,) = members_of(1, model=model)
    other = permuted(member)
    torch.testing.assert_close(logits(other), logits(member), rtol=1e-3, atol=1e-4)
    members = [member, other]
    context = context_of(members, refresh=False)
    found = WeightMatching().merge(members, context)
    for name, tensor in member.weights.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=1e-6, atol=1e-6)
    assert found.numbers["distance_after"] == pytest.approx(0, abs=1e-5)
    assert found.numbers["distance_before"] > 1
    unmatched = Uniform().merge(members, context)
    assert not torch.allclose(context.logits(unmatched.weights, "test"), logits(member), atol=1e-2)


def test_masks_move_with_their_weights() -> None:
    (member,) = members_of(1, random_mask(0.5))
    members = [member, permuted(member)]
    found = WeightMatching().merge(members, context_of(members))
    assert all(torch.equal(mask, member.masks[name]) for name, mask in found.masks.items())


def test_matching_never_moves_networks_apart() -> None:
    members = members_of(4, spread=3.0)
    found = WeightMatching().merge(members, context_of(members))
    assert found.numbers["distance_after"] <= found.numbers["distance_before"]


def test_a_network_that_matches_stays_as_it_is() -> None:
    (member,) = members_of(1)
    weights, _ = matched(member.weights, member.weights, blocks(member), {})
    assert all(torch.equal(weights[name], tensor) for name, tensor in member.weights.items())
