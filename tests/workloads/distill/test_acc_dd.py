"""The pool of Acc-DD: its training, the choice of members, and the effect of a perturbation."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from distilling import context, states
from scipy import stats
from torch import Tensor, nn

from pruneyard.workloads.distill.distiller import DistillState
from pruneyard.workloads.distill.methods.acc_dd import AccDD
from pruneyard.workloads.distill.network_training import NetworkTraining
from pruneyard.workloads.distill.perturbation import Perturbation

FIELDS: dict[str, Any] = {
    "ipc": 1,
    "iterations": 2,
    "steps": 2,
    "real_batch": 6,
    "pool": 3,
    "pretrain_epochs": 2,
    "network": NetworkTraining(num_images=16, lr=0.05, cutmix=0.0, augment=""),
}
NOT_MOVED = Perturbation(min_magnitude=0, max_magnitude=0)


@cache
def path(epochs: int = 2) -> list[DistillState]:
    return states(AccDD(**FIELDS | {"pretrain_epochs": epochs}), context())


def pool(state: DistillState) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.tensors.items() if name.startswith("pool/")}


def accuracy(network: nn.Module) -> float:
    real = context().real
    with torch.no_grad():
        found = network(real.images(torch.arange(len(real.split)))).argmax(1)
    return float((found == real.split.labels).float().mean())


def first(tensors: Mapping[str, Tensor], number: int = 0, **fields: Any) -> nn.Module:
    return AccDD(**FIELDS | fields).first_network(tensors, context(), number)


def test_each_iteration_of_the_first_trains_one_member_for_an_epoch() -> None:
    for iteration in range(6):
        before, after = (pool(path()[iteration + i]) for i in (0, 1))
        changed = {name.split("/")[1] for name in before if not torch.equal(before[name], after[name])}
        assert changed == {str(iteration // 2)}


def test_members_differ_and_have_learned() -> None:
    trained = pool(path(6)[18])
    fresh = [accuracy(first(pool(path(6)[0]), number, perturbation=NOT_MOVED)) for number in range(8)]
    found = [accuracy(first(trained, number, perturbation=NOT_MOVED)) for number in range(8)]
    assert len(set(found)) == 3
    assert min(found) > max(fresh) + 0.1


def test_no_sweep_changes_the_pool() -> None:
    assert len(path()) == 1 + 6 + 4
    for state in path()[7:]:
        assert all(torch.equal(tensor, pool(path()[6])[name]) for name, tensor in pool(state).items())


def test_images_wait_for_the_pool() -> None:
    start = path()[0].tensors["images"]
    assert all(torch.equal(state.tensors["images"], start) for state in path()[:7])
    assert not torch.equal(path()[7].tensors["images"], start)


def test_a_path_begins_with_a_copy_of_a_member() -> None:
    tensors = pool(path()[6])
    network = first(tensors, perturbation=NOT_MOVED)
    members = [
        all(
            torch.equal(tensor, tensors[f"pool/{member}/{name}"])
            for name, tensor in network.state_dict().items()
        )
        for member in range(3)
    ]
    assert sum(members) == 1
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, pool(path()[6])[name]) for name, tensor in tensors.items())


def test_members_are_drawn_uniformly() -> None:
    """Chi-square over 2,000 paths of one seed; a fair draw fails one seed in a thousand."""
    at = context()
    drawn = [AccDD(ipc=1, pool=5).member(at, number) for number in range(2000)]
    assert stats.chisquare(torch.bincount(torch.tensor(drawn), minlength=5).numpy()).pvalue > 1e-3


def test_a_small_perturbation_keeps_the_accuracy_and_a_large_one_destroys_it() -> None:
    tensors = pool(path(6)[18])
    means = []
    for most in (0.0, 0.09, 3.0):
        perturbation = Perturbation(min_magnitude=most, max_magnitude=most)
        means.append(sum(accuracy(first(tensors, n, perturbation=perturbation)) for n in range(8)) / 8)
    assert means[1] > means[0] - 0.1
    assert means[2] < means[1] - 0.1


@pytest.mark.parametrize("fields", [{"pool": -1}, {"pretrain_epochs": -1}])
def test_what_cannot_be_is_refused(fields: dict[str, int]) -> None:
    (name,) = fields
    with pytest.raises(ValueError, match=f"^{name} is"):
        AccDD(**FIELDS | fields)
