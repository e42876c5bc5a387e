"""Merges of updates from a common start: DARE's expectation, OPCM's projections, BANG's interpolation, learned coefficients."""

from dataclasses import replace

import pytest
import torch

from pruneyard.testing.finished_networks import random_mask
from pruneyard.testing.merging import context_of, copies_of, members_of, start_of
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.methods.bang import Bang
from pruneyard.workloads.merge.methods.dare import Dare, dropped
from pruneyard.workloads.merge.methods.expert_merging import ExpertMerging, called, divergence
from pruneyard.workloads.merge.methods.opcm import OPCM, merged_update, projected
from pruneyard.workloads.merge.methods.uniform import Uniform
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.seeding import stream


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=stream(seed, "matrix"), dtype=torch.float64)


def test_dropped_and_rescaled_updates_have_the_update_as_their_mean() -> None:
    """5,000 draws at a drop rate of 0.9: each mean lies within 6 standard errors, and the share of zeros is the rate."""
    update, generator, drop = matrix(3, 4), stream(0, "drops"), 0.9
    draws = torch.stack([dropped(update, drop, 1 - drop, generator) for _ in range(5000)])
    standard_error = update.abs() * (drop / (1 - drop)) ** 0.5 / 5000**0.5
    assert ((draws.mean(0) - update).abs() < 6 * standard_error).all()
    assert float((draws == 0).double().mean()) == pytest.approx(drop, abs=0.01)
    kept = dropped(update, drop, 0.5, generator)
    assert set((kept / update).round(decimals=6).unique().tolist()) <= {0.0, 2.0}


def test_dare_without_drops_is_the_uniform_soup_and_never_leaves_the_mask() -> None:
    members = members_of(3, random_mask(0.4))
    context = context_of(members)
    found, uniform = Dare(drop=0.0).merge(members, context), Uniform().merge(members, context)
    for name, tensor in uniform.weights.items():
        torch.testing.assert_close(found.weights[name], tensor)
    dropped_out = Dare(drop=0.9).merge(members, context)
    assert all(not dropped_out.weights[name][~mask].any() for name, mask in dropped_out.masks.items())
    assert not torch.equal(dropped_out.weights["hidden1.weight"], uniform.weights["hidden1.weight"])


@pytest.mark.parametrize("energy", [0.2, 0.5, 0.9])
def test_what_is_left_after_a_projection_is_orthogonal_to_the_leading_directions(energy: float) -> None:
    merged, update = matrix(6, 5), matrix(6, 5, seed=1)
    left, values, right = torch.linalg.svd(merged, full_matrices=False)
    shares = values.square().cumsum(0) / values.square().sum()
    rank = int((shares < energy).sum()) + 1
    found = projected(update, merged, energy)
    torch.testing.assert_close(left[:, :rank].T @ found @ right[:rank].T, torch.zeros(rank, rank, dtype=torch.float64))
    torch.testing.assert_close(projected(found, merged, energy), found)
    leading = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
    assert float((found * leading).sum()) == pytest.approx(0, abs=1e-10)
    assert float(found.norm()) < float(update.norm())


def test_a_projection_at_the_whole_norm_leaves_nothing_between_the_singular_vectors() -> None:
    assert float(projected(matrix(4, 4, seed=1), matrix(4, 4), 1.0).norm()) == pytest.approx(0, abs=1e-9)
    assert torch.equal(projected(matrix(4, 4, seed=1), matrix(4, 4), 0.0), matrix(4, 4, seed=1))


def test_a_merged_update_has_the_mean_norm_of_the_updates() -> None:
    updates = [scale * matrix(6, 5, seed=number) for number, scale in enumerate((1.0, 2.0, 5.0))]
    mean_norm = sum(float(update.norm()) for update in updates) / 3
    assert float(merged_update(updates, 0.5).norm()) == pytest.approx(mean_norm)
    assert torch.equal(merged_update(updates[:1], 0.5), updates[0])


def test_updates_of_different_directions_are_summed() -> None:
    """By hand: two rank-one updates on different axes have nothing to project; their sum has the norm of each."""
    one, other = torch.zeros(3, 3).double(), torch.zeros(3, 3).double()
    one[0, 0], other[1, 1] = 2.0, 2.0
    torch.testing.assert_close(merged_update([one, other], 0.5), (one + other) / 2**0.5)


def test_opcm_of_a_single_member_is_that_member() -> None:
    members = members_of(1, random_mask(0.4))
    found = OPCM().merge(members, context_of(members))
    for name, tensor in members[0].weights.items():
        torch.testing.assert_close(found.weights[name], tensor)


def scaled(member: Member, factor: float) -> Member:
    """Returns a member whose logits are multiplied by a factor."""
    weights = {n: t * factor if n.startswith("classifier.") else t for n, t in member.weights.items()}
    network = FinishedNetwork.of(member.blueprint, weights=weights, masks=member.masks)
    return replace(member, network=network)


def test_bang_cures_over_confidence_by_the_temperature_of_val() -> None:
    """A member whose logits are five times as large has five times the temperature, and the same cured weights."""
    (member,) = members_of(1, spread=0.3)
    cured = [Bang(alpha=1.0).merge([m], context_of([m])) for m in (member, scaled(member, 5.0))]
    assert cured[1].numbers["temperature"] == pytest.approx(5 * cured[0].numbers["temperature"], rel=1e-3)
    for name, tensor in cured[0].weights.items():
        torch.testing.assert_close(cured[1].weights[name], tensor, rtol=2e-3, atol=1e-5)


def test_bang_without_cure_lies_between_start_and_members() -> None:
    members, start = members_of(2), start_of()
    uniform = Uniform().merge(members, context_of(members))
    found = Bang(alpha=0.25, cure="none").merge(members, context_of(members))
    for name, tensor in found.weights.items():
        torch.testing.assert_close(tensor, 0.75 * start[name] + 0.25 * uniform.weights[name])
    assert Bang(cure="none").use_of_val == "none"
    assert Bang().use_of_val == "fit"


def test_coefficients_that_are_not_trained_give_the_uniform_soup() -> None:
    members = members_of(3, random_mask(0.4))
    context = context_of(members)
    found, uniform = ExpertMerging(steps=0).merge(members, context), Uniform().merge(members, context)
    for name, tensor in uniform.weights.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=1e-5, atol=1e-6)


def test_learned_coefficients_of_copies_give_nearly_the_copy() -> None:
    copies = copies_of(members_of(1, random_mask(0.4))[0], 3)
    found = ExpertMerging(steps=20).merge(copies, context_of(copies))
    for name, tensor in copies[0].weights.items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=0, atol=1e-3)


def test_learned_coefficients_bring_the_merge_closer_to_what_its_members_compute() -> None:
    members = members_of(2, spread=0.8)
    context = context_of(members)
    images = next(iter(context.splits["train"].batches(96)))[0]

    def distance(weights: dict[str, torch.Tensor]) -> float:
        with torch.no_grad():
            logits, _ = called(weights, images, context)
            return sum(float(divergence(called(member.weights, images, context)[0], logits)) for member in members)

    uniform = Uniform().merge(members, context)
    learned = ExpertMerging(steps=60, lr=0.02).merge(members, context)
    assert distance(dict(learned.weights)) < distance(dict(uniform.weights))
    assert learned.numbers["coefficient_shift"] > 0
    assert context.flops > 0
