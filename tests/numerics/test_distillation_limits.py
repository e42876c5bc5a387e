"""Distillers against plain loops as their papers describe them, in float64, and against each other where definitions coincide."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from distilling import context, images, states
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.distiller import DistillContext, Distiller, DistillState
from pruneyard.workloads.distill.evaluate import cutmix
from pruneyard.workloads.distill.initial_images import momentum_step
from pruneyard.workloads.distill.masking import Masking
from pruneyard.workloads.distill.matcher import batched_step_rate
from pruneyard.workloads.distill.methods.acc_dd import AccDD
from pruneyard.workloads.distill.methods.dc import DC
from pruneyard.workloads.distill.methods.dm import DM
from pruneyard.workloads.distill.methods.dsa import DSA
from pruneyard.workloads.distill.methods.idc import IDC
from pruneyard.workloads.distill.network_training import NetworkTraining
from pruneyard.workloads.distill.perturbation import Perturbation

NETWORK = NetworkTraining(num_images=40, batch_size=16)
SMALL: dict[str, Any] = {"ipc": 2, "iterations": 2, "real_batch": 6}
SMALL_IDC: dict[str, Any] = SMALL | {"steps": 3, "network": NETWORK, "lr": 0.5}


def equal(first: list[DistillState], second: list[DistillState]) -> bool:
    """Returns whether all states are equal bit for bit, after every iteration."""
    return len(first) == len(second) and all(
        a.tensors.keys() == b.tensors.keys()
        and a.numbers == b.numbers
        and all(torch.equal(tensor, b.tensors[name]) for name, tensor in a.tensors.items())
        for a, b in zip(first, second, strict=True)
    )


def gradients(
    network: nn.Module, of: list[nn.Parameter], seen: Tensor, label: int, **how: Any
) -> tuple[Tensor, ...]:
    loss = functional.cross_entropy(network(seen), torch.full((len(seen),), label))
    return torch.autograd.grad(loss, of, **how)


def crop_and_resize(stored: Tensor, factor: int) -> Tensor:
    """Returns crops of all images at one place, then those of the next place; the factor must divide the sides."""
    side = stored.shape[-1] // factor
    places = [(i, j) for i in range(factor) for j in range(factor)]
    crops = [stored[:, :, i * side : (i + 1) * side, j * side : (j + 1) * side] for i, j in places]
    enlarged = [functional.interpolate(crop, scale_factor=factor, mode="bilinear") for crop in crops]
    return torch.cat(enlarged)


def plain_idc(method: IDC, at: DistillContext, start: Tensor) -> Tensor:
    """IDC as in the paper: one optimizer for all images, which steps after each class; whole batches; factor 1 cuts nothing."""
    stored = nn.Parameter(start.clone())
    of_images = torch.optim.SGD([stored], lr=method.lr * method.ipc / 10, momentum=method.momentum)
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (at.real.mean, at.real.std)
    )
    shared, own = (
        Strategy.of(names, always=("flip", "color", "cutout"))
        for names in (method.augment, method.network.augment)
    )
    for number in range(method.iterations):
        network = at.network("match", number)
        convolutions = [parameter for parameter in network.parameters() if parameter.ndim == 4]
        of_network = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        stored.data.clamp_(0, 1)
        for step in range(method.steps):
            iteration = number * method.steps + step
            draws = at.stream("real", iteration)
            for label in range(10):
                real = at.real.images(at.real.sample_rows(label, method.real_batch, draws))
                mine = stored[label * method.ipc : (label + 1) * method.ipc]
                decoded = mine if method.factor == 1 else crop_and_resize(mine, method.factor)
                both = shared.sample(draws)(torch.cat([real, (decoded - mean) / std]))
                wanted = gradients(network, convolutions, both[: len(real)].detach(), label)
                found = gradients(network, convolutions, both[len(real) :], label, create_graph=True)
                loss = torch.stack([((f - w) ** 2).sum() for f, w in zip(found, wanted, strict=True)]).sum()
                of_images.zero_grad(set_to_none=True)
                (stored.grad,) = torch.autograd.grad(loss, stored)
                of_images.step()
            draws = at.stream("train", iteration)
            for rows in torch.randperm(len(at.real.split), generator=draws)[: method.network.num_images].split(16):
                seen, targets = (
                    own.sample(draws, num=len(rows))(at.real.images(rows)),
                    at.real.split.labels[rows],
                )
                if float(torch.rand((), generator=draws)) < method.network.cutmix:
                    seen, targets = cutmix(seen, functional.one_hot(targets, 10).double(), draws)
                of_network.zero_grad()
                functional.cross_entropy(network(seen), targets).backward()
                of_network.step()
    return stored.detach()


@pytest.mark.parametrize("factor", [1, 2])
def test_idc_and_idc_i_are_the_loop_of_the_paper(factor: int) -> None:
    method = IDC(**SMALL_IDC | {"factor": factor, "class_step": "sequential"})
    at = context(double=True)
    found = states(method, at)
    torch.testing.assert_close(images(found[-1]), plain_idc(method, at, images(found[0])), rtol=0, atol=1e-10)
    assert float((images(found[-1]) - images(found[0])).abs().max()) > 1e-3
    assert method.synthetic_set(states(method, context())[-1], context()).factor == factor


def plain_dc(method: DC, at: DistillContext, start: Tensor) -> Tensor:
    """DC as in the paper, with the distance written out row by row."""
    stored, (outer, inner) = nn.Parameter(start.clone()), method.steps
    of_images = torch.optim.SGD([stored], lr=method.lr, momentum=method.momentum)
    labels = torch.arange(10).repeat_interleave(method.ipc)
    for number in range(method.iterations):
        network = at.network("match", number)
        weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
        of_network = torch.optim.SGD(network.parameters(), lr=method.network_lr)
        for step in range(outer):
            draws = at.stream("real", number * outer + step)
            total = torch.zeros((), dtype=torch.float64)
            for label in range(10):
                real = at.real.images(at.real.sample_rows(label, method.real_batch, draws))
                transform = Strategy.of(method.augment).sample(draws)
                mine = transform(stored[label * method.ipc : (label + 1) * method.ipc])
                wanted = gradients(network, weights, transform(real), label)
                found = gradients(network, weights, mine, label, create_graph=True)
                for of_mine, of_real in zip(found, wanted, strict=True):
                    for a, b in zip(of_mine.flatten(1), of_real.flatten(1), strict=True):
                        total = total + 1 - a @ b / (a.norm() * b.norm() + 1e-6)
            of_images.zero_grad()
            (stored.grad,) = torch.autograd.grad(total, stored)
            of_images.step()
            draws = at.stream("train", number * outer + step)
            for _ in range(inner):
                for rows in torch.randperm(len(stored), generator=draws).split(method.network_batch):
                    seen = Strategy.of(method.augment).sample(draws, num=len(rows))(stored.detach()[rows])
                    of_network.zero_grad()
                    functional.cross_entropy(network(seen), labels[rows]).backward()
                    of_network.step()
    return stored.detach()


@pytest.mark.parametrize("kind", [DC, DSA])
def test_dc_and_dsa_are_the_loop_of_the_paper(kind: type[DC]) -> None:
    method, at = kind(**SMALL, outer_loop=2, inner_loop=2, network_batch=12), context(double=True)
    start = images(method.start(at)).double()
    found = states(method, at, start=DistillState({"images": start, "velocity": torch.zeros_like(start)}))
    torch.testing.assert_close(images(found[-1]), plain_dc(method, at, start), rtol=0, atol=1e-9)


def as_dc(**fields: Any) -> IDC:
    """Returns IDC with all switches as in DC. Learning rates of IDC are for 10 images per class: 0.5 is 0.1 for two."""
    network = NetworkTraining(
        train_on="synthetic",
        num_images=2 * 20,
        batch_size=12,
        momentum=0.0,
        weight_decay=0.0,
        cutmix=0.0,
        augment=fields.get("augment", ""),
    )
    switches: dict[str, Any] = {
        "init": "noise",
        "factor": 1,
        "space": "normalised",
        "class_step": "sum",
        "lr": 0.5,
    }
    matching: dict[str, Any] = {"distance": "cosine", "classifier": True, "augment": "", "network": network}
    return IDC(**SMALL | {"steps": 2} | switches | matching | fields)


def test_idc_with_all_switches_set_is_dc() -> None:
    assert equal(states(as_dc(), context()), states(DC(**SMALL, outer_loop=2, inner_loop=2, network_batch=12), context()))


def test_idc_with_all_switches_set_is_dsa_where_transforms_are_drawn_alike() -> None:
    known = DSA(**SMALL, outer_loop=2, inner_loop=2, network_batch=12, augment="crop_scale_rotate")
    assert equal(states(as_dc(init="real", augment="crop_scale_rotate"), context()), states(known, context()))


def test_idc_is_not_dsa_where_it_applies_a_transform_always() -> None:
    known = DSA(**SMALL, outer_loop=2, inner_loop=2, network_batch=12, augment="color_crop")
    assert not equal(states(as_dc(init="real", augment="color_crop"), context()), states(known, context()))


@pytest.mark.parametrize(
    "switch",
    [
        {"distance": "squared"},
        {"classifier": False},
        {"class_step": "batched"},
        {"space": "pixels"},
        {"network": NETWORK},
    ],
)
def test_every_one_of_the_switches_counts(switch: dict[str, Any]) -> None:
    found, known = (images(states(as_dc(**fields), context())[-1]) for fields in (switch, {}))
    assert not torch.equal(found, known)


NEITHER: dict[str, Any] = {"pool": 0, "perturbation": Perturbation(min_magnitude=0, max_magnitude=0)}


@pytest.mark.parametrize("factor", [1, 2])
def test_acc_dd_without_pool_and_perturbation_is_idc(factor: int) -> None:
    fields = SMALL_IDC | {"factor": factor}
    assert equal(states(AccDD(**fields, **NEITHER), context()), states(IDC(**fields), context()))


@pytest.mark.parametrize("augmented", [{"pool": 1, "pretrain_epochs": 1}, {"perturbation": Perturbation()}])
def test_pool_and_perturbation_each_change_the_path(augmented: dict[str, Any]) -> None:
    with_it = images(states(AccDD(**SMALL_IDC, **NEITHER | augmented), context())[-1])
    assert not torch.equal(with_it, images(states(IDC(**SMALL_IDC), context())[-1]))


MASKED: list[tuple[type, dict[str, Any]]] = [
    (DC, SMALL | {"outer_loop": 2, "inner_loop": 1}),
    (DSA, SMALL | {"outer_loop": 2, "inner_loop": 1}),
    (DM, SMALL),
    (IDC, SMALL_IDC),
    (AccDD, SMALL_IDC | {"pool": 1, "pretrain_epochs": 1}),
]


@pytest.mark.parametrize(("kind", "fields"), MASKED)
def test_masks_of_ratio_0_are_the_method_itself(kind: type, fields: dict[str, Any]) -> None:
    def made(mask: Masking) -> list[DistillState]:
        method: Distiller = kind(**fields, mask=mask)
        return states(method, context())

    plain = states(kind(**fields), context())
    assert equal(made(Masking(ratio=0.0, unit="patches", patch=2, rescaled=True)), plain)
    assert not equal(made(Masking(ratio=0.2)), plain)


def test_masks_have_draws_of_their_own_and_leave_the_stored_images_whole() -> None:
    """Networks that are trained on real images go the same way with and without masks."""
    plain, masked = (states(IDC(**SMALL_IDC, mask=mask), context()) for mask in (Masking(), Masking(ratio=0.5)))
    for a, b in zip(plain, masked, strict=True):
        assert all(
            torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors if name.startswith("network/")
        )
    stored = images(masked[-1])
    assert float((stored == 0).float().mean()) <= float((images(masked[0]) == 0).float().mean()) + 0.02


def caught_up(state: DistillState, method: IDC) -> Tensor:
    """Returns the images of a class at its next visit: class c has had 9 - c steps of momentum alone, and lacks c."""
    found, velocity = images(state).clone(), state.tensors["velocity"].clone()
    for label in range(10):
        rows = slice(label * method.ipc, (label + 1) * method.ipc)
        for _ in range(label):
            moved = momentum_step(
                found[rows],
                velocity[rows],
                torch.zeros(()),
                lr=method.lr * method.ipc / 10,
                momentum=method.momentum,
            )
            found[rows], velocity[rows] = moved
    return found


def test_one_step_for_all_classes_leads_where_a_step_after_each_leads() -> None:
    """Between two clamps, at every sweep, once the moves that are still to come are made. Steps are too small to clamp."""
    sequential = IDC(**SMALL_IDC | {"iterations": 1, "steps": 5, "class_step": "sequential"})
    batched = replace(sequential, class_step="batched")
    for one, other in zip(
        states(sequential, context(double=True)), states(batched, context(double=True)), strict=True
    ):
        torch.testing.assert_close(caught_up(one, sequential), images(other), rtol=0, atol=1e-12)
        assert one.numbers == pytest.approx(other.numbers, rel=1e-9)
    assert float((images(one) - images(other)).abs().max()) > 1e-5


def test_one_step_for_all_classes_by_hand() -> None:
    """Three classes, momentum 1/2: rate 1 + 1/2 + 1/4, and an eighth of the velocity is left."""
    assert batched_step_rate(0.1, 0.5, 3) == (pytest.approx(0.175), 0.125)
    assert batched_step_rate(0.1, 0.0, 10) == (0.1, 0.0)


def test_the_path_of_the_networks_depends_on_no_image() -> None:
    """With a seed of its own it is the same for every job seed and number of images per class."""
    found = [
        states(IDC(**SMALL_IDC | {"ipc": ipc}, trajectory_seed=5), context(seed))
        for ipc, seed in ((1, 0), (2, 0), (2, 7))
    ]
    for sweep in range(1, len(found[0])):
        tensors = [path[sweep].tensors for path in found]
        names = [name for name in tensors[0] if name.startswith("network/")]
        assert all(torch.equal(tensors[0][name], other[name]) for name in names for other in tensors[1:])
    assert not torch.equal(images(found[1][0]), images(found[2][0]))
