"""The variance-corrected average, and merges of outputs: quantiles of probabilities and learned weights of architectures."""

import dataclasses

import pytest
import torch
from torch import Tensor

from pruneyard.testing.finished_networks import finished_of, random_mask
from pruneyard.testing.merging import MLP, SHAPE, context_of, copies_of, members_of
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.methods.aware_net import AwareNet, mixed
from pruneyard.workloads.merge.methods.gossip_variance import GossipVariance, restored
from pruneyard.workloads.merge.methods.quantile_aggregation import QuantileAggregation
from pruneyard.workloads.seeding import stream


def independent(count: int, size: int = 20_000) -> list[Tensor]:
    return [torch.randn(size, generator=stream(number, "weights")) for number in range(count)]


@pytest.mark.parametrize("count", [2, 5, 16])
def test_averaging_independent_weights_and_correcting_restores_the_variance(count: int) -> None:
    weights = independent(count)
    average, everywhere = torch.stack(weights).mean(0), torch.ones(20_000, dtype=torch.bool)
    assert float(average.var()) == pytest.approx(1 / count, rel=0.1)
    found, factor = restored(average, weights, everywhere)
    assert float(found.var()) == pytest.approx(1.0, rel=0.03)
    assert factor == pytest.approx(count**0.5, rel=0.05)


def test_copies_need_no_correction_and_the_mean_stays() -> None:
    (weight,) = independent(1)
    found, factor = restored(weight + 3, [weight + 3] * 4, torch.ones(20_000, dtype=torch.bool))
    assert factor == pytest.approx(1.0)
    torch.testing.assert_close(found, weight + 3)


def test_networks_from_independent_starts_keep_the_variance_of_every_layer_within_their_mask() -> None:
    first = members_of(1, random_mask(0.5))[0]
    members = [first]
    for seed in (1, 2, 3):
        network = finished_of(MLP, SHAPE, random_mask(0.5), seed=seed).network.state_dict()
        weights = {name: torch.where(first.masks[name], t, 0.0) if name in first.masks else t for name, t in network.items()}
        members.append(dataclasses.replace(first, run_key=str(seed), network=first.network.of(
            first.blueprint, weights=weights, masks=first.masks
        )))
    found = GossipVariance().merge(members, context_of(members))
    for name, mask in first.masks.items():
        wanted = sum(float(member.weights[name][mask].var(correction=0)) for member in members) / len(members)
        assert float(found.weights[name][mask].var(correction=0)) == pytest.approx(wanted, rel=1e-4)
        assert not found.weights[name][~mask].any()
    assert found.numbers["variance_factor"] > 1.2


def test_the_median_of_probabilities_ignores_one_wrong_member() -> None:
    right, wrong = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[-20.0, 30.0, 0.0]])
    logits = torch.stack([right, right, wrong])
    found = QuantileAggregation().combine(logits).exp()
    torch.testing.assert_close(found, right.softmax(1), rtol=1e-3, atol=1e-4)
    assert int(logits.softmax(2).mean(0).argmax()) == 0
    assert float(logits.softmax(2).mean(0)[0, 0]) < 0.7
    assert float(found.sum()) == pytest.approx(1.0)


def test_quantiles_by_hand() -> None:
    """Two classes, three members: medians 0.6 and 0.4, lower quantiles 0.2 and 0.1, divided by their sums."""
    logits = torch.tensor([[[0.2, 0.8]], [[0.6, 0.4]], [[0.9, 0.1]]]).log()
    torch.testing.assert_close(QuantileAggregation().combine(logits).exp(), torch.tensor([[0.6, 0.4]]))
    torch.testing.assert_close(QuantileAggregation(level=0.0).combine(logits).exp(), torch.tensor([[2 / 3, 1 / 3]]))


def test_a_mixture_by_hand() -> None:
    logits = torch.tensor([[[0.2, 0.8]], [[0.6, 0.4]]]).log()
    torch.testing.assert_close(mixed(logits, [0.25, 0.75]).exp(), torch.tensor([[0.5, 0.5]]))


def test_the_better_architecture_gets_the_larger_weight_and_its_members_equal_shares() -> None:
    """Two members of one architecture that know the labels of `val`, and one of another that does not."""
    members = copies_of(members_of(1)[0], 2)
    other = finished_of({**MLP, "width": 13}, SHAPE, None)
    members.append(Member(run_key="other", network=other))
    context = context_of(members)
    labels = context.splits["val"].labels
    known = torch.nn.functional.one_hot(labels, 10).float() * 6
    context.known_logits |= {(member.run_key, "val"): known for member in members[:2]}
    found = AwareNet().merge(members, context)
    shares = [found.shares[member.run_key] for member in members]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] == pytest.approx(shares[1])
    assert shares[0] + shares[1] > 0.9
    assert found.numbers["num_architectures"] == 2


def test_equal_architectures_have_the_mean_of_their_members() -> None:
    members = members_of(3)
    found = AwareNet().merge(members, context_of(members))
    assert list(found.shares.values()) == pytest.approx([1 / 3] * 3)
