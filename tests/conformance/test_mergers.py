"""Rules that every merging method must keep. Members are found by their files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pruneyard.testing.finished_networks import random_mask
from pruneyard.testing.merging import context_of, copies_of, members_of, run_job
from pruneyard.testing.plug_in import build as build_plugin
from pruneyard.testing.trainings import digits
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedNetwork, MergedOutputs, Merger
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.plugins import names

FAMILY = "merge.methods"

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


def build(name: str, **fields: Any) -> Merger:
    built: Merger = build_plugin(FAMILY, name, **fields)
    return built


def merged(name: str, members: list[Member], **fields: Any) -> MergedNetwork | MergedOutputs:
    return build(name).merge(members, context_of(members, **fields))


def tensors_of(found: MergedNetwork | MergedOutputs, members: list[Member]) -> dict[str, Tensor]:
    """Returns the weights of a merged network, or merged outputs on the test rows."""
    if isinstance(found, MergedNetwork):
        return dict(found.weights)
    context = context_of(members)
    return {"test": found.combine(torch.stack([context.member_logits(member, "test") for member in members]))}


def test_a_merge_of_copies_is_the_copy_exactly_where_it_is_declared(name: str) -> None:
    members = copies_of(members_of(1, random_mask(0.4))[0], 3)
    found = tensors_of(merged(name, members), members)
    expected = members[0].weights
    if not build(name).merges_weights:
        expected = {"test": context_of(members).member_logits(members[0], "test").log_softmax(1)}
    is_copy = all(torch.allclose(found[key], tensor, rtol=1e-4, atol=1e-5) for key, tensor in expected.items())
    assert is_copy == build(name).keeps_copies


def test_the_order_of_members_matters_exactly_where_it_is_declared(name: str) -> None:
    members = members_of(4, random_mask(1.0), spread=3.0)  # far enough apart for channels to be moved
    one = tensors_of(merged(name, members), members)
    other = tensors_of(merged(name, members[::-1]), members[::-1])
    is_same = all(torch.allclose(other[key], tensor, rtol=1e-5, atol=1e-6) for key, tensor in one.items())
    assert is_same != build(name).order_matters


def test_a_common_mask_survives(name: str) -> None:
    members = members_of(3, random_mask(0.4))
    found = merged(name, members, union=True)  # methods that move channels join the masks
    if not build(name).merges_weights:
        assert isinstance(found, MergedOutputs), "there is no mask to survive"
        return
    assert isinstance(found, MergedNetwork)
    assert found.weights.keys() == members[0].weights.keys()
    for key, mask in members[0].masks.items():
        assert (found.masks[key] | ~mask).all(), f"{key} must stay active where all members are"


def test_different_masks_are_refused_unless_they_may_be_joined(name: str) -> None:
    members = members_of(3, random_mask(0.4), same_masks=False)
    if not build(name).merges_weights:
        assert isinstance(merged(name, members), MergedOutputs), "outputs are merged whatever the masks"
        return
    with pytest.raises(ValueError, match=r"masks is same, but 0+(\d) and 0+(?!\1)\d have different masks of"):
        merged(name, members)
    found = merged(name, members, union=True)
    assert isinstance(found, MergedNetwork)
    covered = [any(bool((mask & ~found.masks[key]).any()) for key, mask in member.masks.items()) for member in members]
    assert not all(covered), "the masks of a member that is in the merge must be covered"


def test_a_merge_is_deterministic_and_leaves_its_members_and_global_numbers_alone(name: str) -> None:
    members = members_of(3, random_mask(0.4))
    before = [{key: tensor.clone() for key, tensor in member.weights.items()} for member in members]
    state = torch.get_rng_state()
    one, other = (tensors_of(merged(name, members), members) for _ in range(2))
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    assert torch.equal(torch.get_rng_state(), state)
    for member, weights in zip(members, before, strict=True):
        assert all(torch.equal(member.weights[key], tensor) for key, tensor in weights.items())


def test_a_single_member_can_be_merged(name: str) -> None:
    members = members_of(1, random_mask(0.4))
    assert all(torch.isfinite(tensor).all() for tensor in tensors_of(merged(name, members), members).values())


def test_a_job_leaves_the_artifact_of_a_training(name: str, tmp_path: Path) -> None:
    """Metrics of all splits and of the members, predictions, and a network that makes these predictions when it is rebuilt."""
    members = members_of(3, random_mask(0.4))
    method = build(name)
    progress = run_job(method, members, tmp_path, masks="union")
    outcome = progress.outcome
    assert outcome is not None
    splits = {"val", "calib", "test"} - ({"val"} if method.use_of_val == "fit" else set())
    assert set(outcome.predictions) == splits
    found = {(m.split, m.name): m.value for m in progress.metrics}
    assert all((split, metric) in found for split in splits for metric in ("accuracy", "nll", "ece"))
    assert all(("test" + of, "accuracy") in found for of in ("@ensemble", "@best_member", "@mean_member"))
    assert np.isfinite(list(found.values())).all()
    if not method.merges_weights:
        assert not outcome.weights
        return
    assert outcome.blueprint is not None
    network = FinishedNetwork.of(Blueprint.of_table(outcome.blueprint), weights=outcome.weights, masks=outcome.masks)
    assert found["train", "density"] == pytest.approx(network.density)
    again = Member(run_key="again", network=network)
    logits = context_of([again]).member_logits(again, "test")
    np.testing.assert_allclose(logits.numpy(), outcome.predictions["test"].logits, rtol=1e-4, atol=1e-5)
    assert outcome.predictions["test"].row_ids.tolist() == digits().test.row_ids.tolist()
    for key, mask in outcome.masks.items():
        assert not outcome.weights[key][~mask].any()
