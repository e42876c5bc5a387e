"""Merges by hand: means, shares, masks and statistics of norms, and what a job refuses."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pruneyard.testing.cases import each_case
from pruneyard.testing.finished_networks import random_mask
from pruneyard.testing.merging import MLP, RESNET, context_of, copies_of, members_of, run_job
from pruneyard.testing.trainings import digits
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.merge.averages import weighted_mean
from pruneyard.workloads.merge.inputs import Members
from pruneyard.workloads.merge.job import MergeJob
from pruneyard.workloads.merge.member import Member, check_same_network, check_same_outputs, joined_masks
from pruneyard.workloads.merge.merger import MergedNetwork
from pruneyard.workloads.merge.methods.greedy import Greedy
from pruneyard.workloads.merge.methods.uniform import Uniform
from pruneyard.workloads.merge.methods.weighted import Weighted
from pruneyard.workloads.workload import InterruptedJobError


def test_means_by_hand() -> None:
    one = {"w": torch.tensor([1.0, 4.0]), "seen": torch.tensor(3)}
    other = {"w": torch.tensor([3.0, 0.0]), "seen": torch.tensor(5)}
    assert weighted_mean([one, other])["w"].tolist() == [2.0, 2.0]
    assert weighted_mean([one, other], [3, 1])["w"].tolist() == [1.5, 3.0]
    assert weighted_mean([one, other])["seen"].item() == 5


def test_a_mean_of_copies_is_the_copy_bit_for_bit() -> None:
    network = {"w": torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    for count in (2, 3, 7):
        assert torch.equal(weighted_mean([network] * count)["w"], network["w"])
    assert torch.equal(weighted_mean([network] * 3, [0.1, 0.2, 0.7])["w"], network["w"])


def mask_of(*active: bool) -> torch.Tensor:
    return torch.tensor(active)


def member_with(masks: dict[str, torch.Tensor], key: str) -> Member:
    (member,) = members_of(1)
    return dataclasses.replace(member, run_key=key, network=dataclasses.replace(member.network, masks=masks))


def test_joined_masks_cover_every_member_and_a_weight_that_is_dense_in_one_has_none() -> None:
    one = member_with({"a": mask_of(True, False, False), "b": mask_of(True)}, "one")
    other = member_with({"a": mask_of(False, False, True)}, "other")
    joined = joined_masks([one, other], union=True)
    assert {name: mask.tolist() for name, mask in joined.items()} == {"a": [True, False, True]}
    with pytest.raises(ValueError, match="one and other have different masks of a"):
        joined_masks([one, other], union=False)


def test_greedy_keeps_the_best_member_and_drops_noise() -> None:
    """Two good members under noise of almost nothing, and one whose weights are all noise."""
    good = members_of(1, spread=0.01)[0]
    broken = members_of(1, spread=30.0)[0]
    members = [dataclasses.replace(member, run_key=key) for key, member in (("a", broken), ("b", good), ("c", good))]
    context = context_of(members)
    scores = {member.run_key: context.member_metrics(member, "val")["nll"] for member in members}
    assert scores["a"] > scores["b"]
    found = Greedy(metric="nll").merge(members, context)
    assert found.numbers["num_kept"] == 2
    assert found.shares == {"a": 0.0, "b": 0.5, "c": 0.5}
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in good.weights.items())


def test_greedy_is_never_worse_on_val_than_the_best_member() -> None:
    members = members_of(5, spread=1.0)
    context = context_of(members)
    found = Greedy().merge(members, context)
    best = max(context.member_metrics(member, "val")["accuracy"] for member in members)
    assert context.metrics(context.logits(found.weights, "val"), "val")["accuracy"] >= best


def test_greedy_compares_networks_whose_batch_norm_statistics_were_computed_alike() -> None:
    """With the statistics of its own, this member is better than any mean; the mean with its copy is no worse."""
    members = copies_of(members_of(3, model=RESNET)[2], 2)
    context = context_of(members)
    own = context.member_metrics(members[0], "val")["accuracy"]
    refreshed = context.metrics(context.logits(context.refreshed(members[0].weights), "val"), "val")["accuracy"]
    assert own > refreshed
    assert Greedy().merge(members, context).numbers == {"num_kept": 2}


def test_shares_are_powers_of_one_over_the_loss() -> None:
    members = members_of(3, spread=1.0)
    context = context_of(members)
    losses = {member.run_key: context.member_metrics(member, "train")["nll"] for member in members}
    shares = Weighted(penalty=2.0).merge(members, context).shares
    total = sum(loss**-2 for loss in losses.values())
    assert shares == pytest.approx({key: loss**-2 / total for key, loss in losses.items()})
    even = Weighted(penalty=0.0).merge(members, context)
    uniform = Uniform().merge(members, context)
    assert all(torch.allclose(even.weights[name], tensor, atol=1e-7) for name, tensor in uniform.weights.items())
    one = Weighted(penalty=1e4).merge(members, context)
    assert max(one.shares, key=lambda key: one.shares[key]) == min(losses, key=lambda key: losses[key])
    assert max(one.shares.values()) == pytest.approx(1.0)


def test_shares_by_steps_are_those_of_the_budgets() -> None:
    members = [
        dataclasses.replace(member, spec={"budget": {"epochs": None, "steps": steps, "batch_size": 16}})
        for member, steps in zip(members_of(2), (100, 300), strict=True)
    ]
    assert list(Weighted(by="steps").merge(members, context_of(members)).shares.values()) == pytest.approx([0.25, 0.75])
    epochs = {"budget": {"epochs": 1, "steps": None, "batch_size": 16}}
    other_data = [dataclasses.replace(m, spec={**epochs, "data": {"runs": [m.run_key]}}) for m in members]
    with pytest.raises(ValueError, match=r"trained on different data, so their steps are not known; give budget\.steps"):
        Weighted(by="steps").merge(other_data, context_of(other_data))
    without = [dataclasses.replace(member, spec={}) for member in members]
    with pytest.raises(ValueError, match="by is steps, but 0000000000000000 is a run without a budget"):
        Weighted(by="steps").merge(without, context_of(without))


def test_statistics_of_norms_are_those_of_the_merged_network_on_training_rows() -> None:
    """By hand: the running mean of the first norm is the mean of its inputs over the rows."""
    members = members_of(2, model=RESNET)
    context = context_of(members, batch_size=len(digits().train))
    refreshed = context.refreshed(Uniform().merge(members, context).weights)
    network = context.network
    network.load_state_dict(refreshed)
    images = next(iter(context.splits["train"].batches(1000)))[0]
    name, norm = next((n, m) for n, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm2d))
    convolution = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        expected = convolution(images).mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(members[0].weights[f"{name}.running_mean"], expected, atol=1e-3)
    kept = context_of(members, refresh=False).refreshed(members[0].weights)
    assert torch.equal(kept[f"{name}.running_mean"], members[0].weights[f"{name}.running_mean"])


def test_members_that_cannot_be_merged_are_refused() -> None:
    (one,), (other,) = members_of(1), members_of(1, model={**MLP, "width": 13})
    with pytest.raises(ValueError, match=r"is \{.*'width': 12.*'width': 13.*weights of different models cannot be merged"):
        check_same_network([one, other])
    shifted = dataclasses.replace(one.network, blueprint=dataclasses.replace(one.blueprint, mean=(0.1,)))
    with pytest.raises(ValueError, match=r"has mean \(0.5,\), and .* \(0.1,\); they must be equal"):
        check_same_outputs([one, dataclasses.replace(one, network=shifted)])


@each_case(
    ("starts", "message"),
    [
        ((None, None), "start is missing: the method needs the weights that all members started from"),
        (({"w": torch.zeros(1)}, {"w": torch.ones(1)}), "start differs between"),
        (({"w": torch.zeros(1)}, {"w": torch.zeros(1)}), "start has no hidden1.weight"),
    ],
)
def test_a_start_that_is_not_common_is_refused(starts: tuple[object, ...], message: str) -> None:
    members = [
        dataclasses.replace(member, read_start=lambda start=start: start)
        for member, start in zip(members_of(2), starts, strict=True)
    ]
    with pytest.raises(ValueError, match=message):
        context_of(members).start()


def test_a_job_that_is_asked_to_stop_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruneyard.workloads.workload.STOP_CHECK_EVERY_S", 0.0)
    with pytest.raises(InterruptedJobError):
        run_job(Uniform(), members_of(2), tmp_path, should_stop=lambda: True)


def test_a_method_that_chooses_on_val_needs_rows_of_it() -> None:
    data = digits()
    empty = dataclasses.replace(data.val, **{name: getattr(data.val, name)[:0] for name in ("images", "labels", "row_ids")})
    job = MergeJob(input=Members(runs=("0", "1")), data=Digits(), method=Greedy())
    with pytest.raises(ValueError, match=r"method.name is greedy, which uses rows of val; data has none"):
        job.check(dataclasses.replace(data, val=empty))
    assert job.check(data) == []
    alone = dataclasses.replace(job, input=dataclasses.replace(job.input, runs=job.input.runs[:1]))
    assert ["a merge of one run is that run itself" in warning for warning in alone.check(data)] == [True]


def test_the_best_member_and_the_ensemble_are_reported(tmp_path: Path) -> None:
    members = members_of(3, random_mask(0.5), spread=1.0)
    found = {(m.split, m.name): m.value for m in run_job(Uniform(), members, tmp_path).metrics}
    context = context_of(members)
    by_val = sorted(members, key=lambda member: -context.member_metrics(member, "val")["accuracy"])
    assert found["test@best_member", "accuracy"] == context.member_metrics(by_val[0], "test")["accuracy"]
    logits = [context.member_logits(member, "test").softmax(1) for member in members]
    ensemble = torch.stack(logits).mean(0).log()
    assert found["test@ensemble", "nll"] == pytest.approx(context.metrics(ensemble, "test")["nll"], rel=1e-5)
    mean = sum(context.member_metrics(member, "test")["accuracy"] for member in members) / 3
    assert found["test@mean_member", "accuracy"] == pytest.approx(mean)


def test_copies_are_merged_to_the_copy_by_a_whole_job(tmp_path: Path) -> None:
    (member,) = members_of(1, random_mask(0.5))
    progress = run_job(Uniform(), copies_of(member, 3), tmp_path)
    assert progress.outcome is not None
    assert all(torch.equal(tensor, member.weights[name]) for name, tensor in progress.outcome.weights.items())
    found = {(m.split, m.name): m.value for m in progress.metrics}
    assert found["test", "nll"] == pytest.approx(found["test@ensemble", "nll"])
    assert isinstance(Uniform().merge([member], context_of([member])), MergedNetwork)
