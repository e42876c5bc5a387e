"""A pool of Acc-DD from earlier runs: equal to its own pool at equal weights, and refused where networks differ."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from distilling import context, states
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.workloads.distill.distiller import DistillContext, DistillState
from pruneyard.workloads.distill.flop_counting import ProblemSize
from pruneyard.workloads.distill.methods.acc_dd import AccDD
from pruneyard.workloads.distill.network_training import NetworkTraining
from pruneyard.workloads.distill.upstream_networks import UpstreamNetworks
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.parents import FinishedRun

FIELDS: dict[str, Any] = {
    "ipc": 1,
    "iterations": 3,
    "steps": 2,
    "real_batch": 6,
    "network": NetworkTraining(num_images=16, lr=0.05, cutmix=0.0, augment=""),
}
OWN = AccDD(**FIELDS, pool=3, pretrain_epochs=1)
KEYS = ("one", "two", "three")
GIVEN = AccDD(**FIELDS, networks=UpstreamNetworks(runs=KEYS, artifacts=KEYS))
MODEL = {"name": "convnet", "width": 4, "depth": 2}


@cache
def own_states() -> list[DistillState]:
    """Returns the states after three epochs, one of each member, and six sweeps."""
    return states(OWN, context())


def pool(state: DistillState) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.tensors.items() if name.startswith("pool/")}


def of_member(member: int) -> dict[str, Tensor]:
    """Returns the weights of a member of the pool that the method trained itself."""
    start = f"pool/{member}/"
    return {
        n.removeprefix(start): t.clone() for n, t in own_states()[3].tensors.items() if n.startswith(start)
    }


def stored_network(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor] | None = None,
    table: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Callable[[], FinishedNetwork]:
    """Returns a network as a run stores it."""
    real = context().real
    seen: dict[str, Any] = {
        "image_shape": real.split.image_shape,
        "num_outputs": 10,
        "mean": real.mean,
        "std": real.std,
    }
    blueprint = Blueprint(model=table or MODEL, **(seen | fields))
    return lambda: FinishedNetwork.of(blueprint, weights=weights, masks=masks or {})


def context_with(networks: Mapping[str, Callable[[], FinishedNetwork]]) -> DistillContext:
    """Returns a context that finds these networks in the artifact folders of their names."""

    def open_run(artifact: str) -> FinishedRun:
        def nothing() -> Any:
            raise AssertionError("a pool asks for networks alone")

        return FinishedRun(
            run_key=artifact,
            kind="sparse",
            spec={},
            num_extra=0,
            predictions=nothing,
            network=networks[artifact],
            source=nothing,
            data_fingerprint=nothing,
        )

    return replace(context(), open_run=open_run)


def same_pool() -> DistillContext:
    return context_with({key: stored_network(of_member(member)) for member, key in enumerate(KEYS)})


@cache
def states_from_runs() -> list[DistillState]:
    """Returns the states before and after each of six sweeps."""
    return states(GIVEN, same_pool())


def test_networks_like_those_of_its_own_pool_give_the_same_images_bit_for_bit() -> None:
    found = states_from_runs()
    assert (GIVEN.num_iterations, OWN.num_iterations) == (6, 9)
    for ours, theirs in zip(own_states()[3:], found, strict=True):
        assert torch.equal(ours.tensors["images"], theirs.tensors["images"])
        assert pool(ours).keys() == pool(theirs).keys()
        assert all(torch.equal(tensor, pool(theirs)[name]) for name, tensor in pool(ours).items())
    assert not torch.equal(found[-1].tensors["images"], found[0].tensors["images"])


def test_other_networks_give_other_images() -> None:
    others = context_with({key: stored_network(of_member(0)) for key in KEYS})
    assert not torch.equal(states(GIVEN, others)[-1].tensors["images"], own_states()[-1].tensors["images"])


def test_every_sweep_can_be_resumed() -> None:
    """To the state that comes next, bit for bit, and so to the end."""
    for iteration, (state, after) in enumerate(itertools.pairwise(states_from_runs())):
        flat = DistillState({name: tensor.clone() for name, tensor in state.tensors.items()})
        resumed = GIVEN.iterate(flat, iteration, context())  # a context that can open nothing
        assert resumed.tensors.keys() == after.tensors.keys()
        assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in resumed.tensors.items())


def test_a_weight_outside_the_mask_of_a_sparse_network_begins_at_zero() -> None:
    weights = of_member(0)
    mask = torch.zeros_like(weights["block2.conv.weight"], dtype=torch.bool)
    mask[:2] = True
    method = AccDD(**FIELDS, networks=UpstreamNetworks(runs=("one",), artifacts=("one",)))
    started = method.start(context_with({"one": stored_network(weights, {"block2.conv.weight": mask})}))
    found = started.tensors["pool/0/block2.conv.weight"]
    assert torch.equal(found[mask], weights["block2.conv.weight"][mask])
    assert not found[~mask].any()
    assert torch.equal(started.tensors["pool/0/classifier.weight"], weights["classifier.weight"])


def test_members_are_drawn_among_all_runs() -> None:
    assert {GIVEN.member(context(), number) for number in range(50)} == {0, 1, 2}


def test_work_of_earlier_runs_is_not_counted_again() -> None:
    problem = ProblemSize(model=ConvNet(width=4, depth=2), image_shape=(1, 8, 8), class_sizes=(24,) * 10)
    sweeps = OWN.flops(9, problem) - OWN.flops(3, problem)
    assert GIVEN.flops(6, problem) == pytest.approx(sweeps)
    assert OWN.flops(3, problem) > 0


@each_case(
    ("table", "fields", "message"),
    [
        (
            {**MODEL, "width": 8},
            {},
            r"run one, whose model is ConvNet\(depth=2, width=8, .*; it must be ConvNet\(depth=2, width=4, ",
        ),
        (None, {"num_outputs": 11}, "run one, whose number of outputs is 11; it must be 10"),
        (None, {"mean": (0.5,)}, r"run one, whose mean and std of pixels is \(\(0\.5,\), .*; it must be"),
        (
            None,
            {"image_shape": (3, 8, 8), "mean": (0.5,) * 3, "std": (1.0,) * 3},
            r"run one, whose shape of images is \(3, 8, 8\)",
        ),
    ],
)
def test_networks_of_another_kind_are_refused_with_both_named(
    table: dict[str, Any] | None, fields: dict[str, Any], message: str
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = fields.get("image_shape", (1, 8, 8))
        network = ConvNet(width=(table or MODEL)["width"], depth=2).build(
            image_shape=shape, num_classes=fields.get("num_outputs", 10)
        )
    at = context_with({"one": stored_network(network.state_dict(), table=table, **fields)})
    method = AccDD(**FIELDS, networks=UpstreamNetworks(runs=("one",), artifacts=("one",)))
    with pytest.raises(ValueError, match=message):
        method.start(at)


@each_case(
    ("fields", "message"),
    [
        ({"pool": 3}, "pool is 3, but networks gives the pool; leave pool out"),
        ({"pretrain_epochs": 4}, "pretrain_epochs is 4, but networks gives the pool; leave pretrain_epochs out"),
        ({"early_epochs": 1}, "early_epochs is 1, but there is a pool of 3"),
    ],
)
def test_nothing_is_said_of_a_pool_that_there_will_not_be(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        AccDD(**FIELDS, networks=UpstreamNetworks(runs=KEYS), **fields)


def test_runs_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^runs is .*; it must name at least one run, none of them twice"):
        UpstreamNetworks(runs=("one", "one"))
    with pytest.raises(ValueError, match=r"^folder is 'out' without runs"):
        UpstreamNetworks(folder="out")
    with pytest.raises(ValueError, match="only a study that contains these runs can read their artifacts"):
        AccDD(**FIELDS, networks=UpstreamNetworks(runs=KEYS)).start(context())
