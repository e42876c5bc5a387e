"""SRe2L and DWA: statistics of batch norms, adjusted weights, and the training of the teacher."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from distilling import Double, context, generator, states
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.distill.adaptive_steps import Moments, adam_step
from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.directed_weights import DirectedAdjustment
from pruneyard.workloads.distill.methods.sre2l import ADJUSTED_PREFIX, SRe2L, roll_jointly
from pruneyard.workloads.distill.norm_statistics import batch_norms, outputs_and_gaps
from pruneyard.workloads.distill.teacher import WEIGHT_PREFIX, Teacher
from pruneyard.workloads.models.convnet import ConvNet

BATCH_NORM = ConvNet(width=4, depth=2, norm="batch")
TEACHER = Teacher(model=BATCH_NORM, epochs=3, batch_size=64, augment="crop")
FIELDS: dict[str, Any] = {"ipc": 2, "iterations": 4, "jitter": 1, "teacher": TEACHER}


def network_with_statistics_of(images: Tensor) -> nn.Module:
    """Returns a network whose norms have the statistics of these images, in eval mode."""
    network = context(double=True, model=BATCH_NORM).network("test")
    sizes: list[int] = []
    for norm in batch_norms(network):
        norm.momentum = 1.0
        norm.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0][:, 0].numel()))
    network(images)
    for norm, size in zip(batch_norms(network), sizes, strict=True):
        assert norm.running_var is not None
        norm.running_var *= (size - 1) / size  # torch remembers the variance of what the batch was drawn from
    return network.eval()


def some_images(num: int = 6) -> Tensor:
    return torch.randn((num, 1, 8, 8), generator=generator(), dtype=torch.float64)


def test_images_with_the_remembered_statistics_have_no_gap() -> None:
    images = some_images()
    _, gaps = outputs_and_gaps(network_with_statistics_of(images), images)
    assert gaps.mean.shape == gaps.variance.shape == (2,)
    assert float((gaps.mean + gaps.variance).detach().sum()) < 1e-12
    shifted = outputs_and_gaps(network_with_statistics_of(images), images + 1)[1]
    assert float(shifted.mean.detach().min()) > 0.01


def test_gaps_worked_by_hand() -> None:
    """Two channels that are 3 and 4 everywhere, before a norm that remembers mean 0 and variance 1: 5 and sqrt(2)."""
    network = nn.Sequential(nn.BatchNorm2d(2)).eval()
    images = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(5, 2, 3, 3)
    outputs, gaps = outputs_and_gaps(network, images)
    assert torch.allclose(outputs, network(images))
    assert (float(gaps.mean), float(gaps.variance)) == pytest.approx((5.0, 2**0.5))


def test_the_first_norm_counts_ten_times_and_variances_by_their_weight() -> None:
    network, images = network_with_statistics_of(some_images()), some_images(10) * 2 + 1
    method = SRe2L(**FIELDS, variance_weight=11.0)
    error, gap = method.losses(network, images)
    outputs, gaps = outputs_and_gaps(network, images)
    weighted = gaps.mean + 11 * gaps.variance
    assert torch.allclose(gap, 10 * weighted[0] + weighted[1])
    assert torch.allclose(error, functional.cross_entropy(outputs, torch.arange(10)))


def test_the_gradient_of_the_gaps_is_that_of_finite_differences() -> None:
    """By the input of the norm itself, where nothing has a kink."""
    network = nn.Sequential(nn.BatchNorm2d(2)).double().eval()

    def gap(images: Tensor) -> Tensor:
        gaps = outputs_and_gaps(network, images)[1]
        return gaps.mean + gaps.variance

    images = torch.randn((3, 2, 2, 2), generator=generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gap, images)


def test_each_batch_is_one_image_of_every_class_and_takes_adams_steps_by_itself() -> None:
    """In float64 against a plain loop over the second batch."""
    teacher = replace(TEACHER, model=Double(model=BATCH_NORM))
    method, at = SRe2L(**FIELDS | {"teacher": teacher}, init="real"), context(double=True)
    path = states(method, at)
    first, last = path[TEACHER.epochs + 4].tensors, path[-1].tensors
    network, rows = teacher.network(last, at), torch.arange(10) * 2 + 1
    assert torch.equal(first["images"][rows], path[0].tensors["images"][rows])
    assert torch.equal(first["images"][rows - 1], last["images"][rows - 1])
    images = path[0].tensors["images"][rows]
    moments = Moments.zero(images)
    for step in range(4):
        leaf = images.clone().requires_grad_()
        seen = roll_jointly(leaf, 1, at.stream("iterate", TEACHER.epochs + 4 + step))
        error, gap = method.losses(network, seen)
        (gradient,) = torch.autograd.grad(error + 0.01 * gap, leaf)
        rate = 0.25 * (1 + math.cos(math.pi * step / 4)) / 2
        images, moments = adam_step(images, gradient, moments, step=step, lr=rate, betas=(0.5, 0.9))
        images = images.clamp(at.real.split.pixels.black, at.real.split.pixels.white)
    assert torch.allclose(last["images"][rows], images)


def test_rolled_images_keep_their_pixels_and_move_together() -> None:
    images, seen = some_images(), set()
    for seed in range(60):
        rolled = roll_jointly(images, 2, generator(seed))
        found = [(i, j) for i in (0, 1, 2) for j in (0, 1, 2) if torch.equal(images.roll((i, j), (2, 3)), rolled)]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 9


def test_soft_labels_are_those_of_the_teacher_as_it_was_trained() -> None:
    method, at = SRe2L(**FIELDS, adjustment=DirectedAdjustment(strength=0.5)), context()
    state = states(method, at)[-1]
    with torch.no_grad():
        wanted = TEACHER.network(state.tensors, at)(state.tensors["images"]).softmax(1)
    made = method.synthetic_set(state, at)
    assert torch.allclose(made.soft_labels, wanted)
    assert float(made.images.min()) >= -1e-6
    assert float(made.images.max()) <= 1 + 1e-6


def test_a_teacher_without_batch_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^teacher.model has no batch norm"):
        SRe2L(ipc=1, teacher=replace(TEACHER, model=ConvNet(width=4, depth=2))).start(context())


def test_the_direction_of_adjusted_weights_worked_by_hand() -> None:
    """At W = 0 and x = (2, 0) of class 0 the gradient is ((-1, 0), (1, 0)), of length sqrt(2)."""
    network = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(network.weight)
    DirectedAdjustment(strength=0.5, steps=1).adjust(network, torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    moved = 0.5 / 2**0.5
    assert torch.allclose(network.weight.detach(), torch.tensor([[-moved, 0.0], [moved, 0.0]]))


@pytest.mark.parametrize("steps", [1, 12])
def test_weights_move_by_at_most_the_strength_uphill_and_leave_statistics(steps: int) -> None:
    network, images, labels = network_with_statistics_of(some_images()), some_images(10), torch.arange(10)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lower = float(functional.cross_entropy(network(images), labels).detach())
    DirectedAdjustment(strength=0.1, steps=steps).adjust(network, images, labels)
    length = math.sqrt(sum(float((p.detach() - before[name]).square().sum()) for name, p in network.named_parameters()))
    assert length <= 0.1 + 1e-9
    assert steps > 1 or length == pytest.approx(0.1)
    assert length > 0.05
    assert float(functional.cross_entropy(network(images), labels).detach()) > lower
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_without_strength_dwa_is_sre2l_bit_for_bit() -> None:
    plain = states(SRe2L(**FIELDS, init="real"), context())[-1]
    zero = states(SRe2L(**FIELDS, init="real", adjustment=DirectedAdjustment(strength=0.0, steps=3)), context())[-1]
    assert plain.numbers == zero.numbers
    assert plain.tensors.keys() == zero.tensors.keys()
    assert all(torch.equal(tensor, zero.tensors[name]) for name, tensor in plain.tensors.items())
    some = states(SRe2L(**FIELDS, init="real", adjustment=DirectedAdjustment(strength=0.1)), context())[-1]
    assert not torch.equal(some.tensors["images"], plain.tensors["images"])
    assert all(torch.equal(some.tensors[name], t) for name, t in plain.tensors.items() if name.startswith(WEIGHT_PREFIX))


def test_each_batch_has_weights_of_its_own_which_start_from_the_teachers() -> None:
    method, at = SRe2L(**FIELDS, init="real", adjustment=DirectedAdjustment(strength=0.1)), context()
    path = states(method, at)
    for batch in range(2):
        of_batch = [path[TEACHER.epochs + 4 * batch + step].tensors for step in (1, 2, 3, 4)]
        network = TEACHER.network(of_batch[0], at)
        start = path[0].tensors["images"][batch::2]
        method.adjustment.adjust(network, start, torch.arange(10))
        for tensors in of_batch:
            assert all(torch.equal(tensors[ADJUSTED_PREFIX + name], t) for name, t in network.state_dict().items())


def test_the_teacher_trains_as_in_one_go() -> None:
    """Momentum and statistics survive the ends of epochs."""
    at = context(model=BATCH_NORM)
    tensors, network = TEACHER.start(at), at.network("teacher")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    for epoch in range(3):
        tensors, _ = TEACHER.train_epoch(tensors, epoch, at)
        draws = at.stream("teacher", epoch)
        optimizer.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * epoch / 3)) / 2
        for rows in torch.randperm(len(at.real.split), generator=draws).split(64):
            images = Strategy.of("crop", always=("crop",)).sample(draws, num=len(rows))(at.real.images(rows))
            optimizer.zero_grad()
            functional.cross_entropy(network(images), at.real.split.labels[rows]).backward()
            optimizer.step()
    assert all(torch.equal(tensors[WEIGHT_PREFIX + name], t) for name, t in network.state_dict().items())
    assert all(name.startswith(WEIGHT_PREFIX) for name in tensors)
