"""MTT: the end of a student's trajectory, its distance to the expert, and the gradients of images and learning rate."""

import pytest
import torch
from distilling import context, generator, states
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.testing.cases import each_case
from pruneyard.workloads.distill.methods.mtt import LEAST_RATE_SHARE, MTT
from pruneyard.workloads.distill.trajectories import flatten_parameters, remaining_distance, train_student

FIELDS = {"ipc": 1, "iterations": 3, "experts": 2, "max_start_epoch": 2, "steps": 3, "rate": 0.05, "expert_batch": 64}


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def linear() -> nn.Module:
    return nn.Linear(2, 2, bias=False).double()


def smooth_network() -> nn.Module:
    """Returns a network without kinks, so that finite differences give its slope."""
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def random_batches(num: int) -> tuple[Tensor, Tensor]:
    """Returns num batches of two images (num, 2, 4) and their labels."""
    images = torch.randn((num, 2, 4), generator=generator(1), dtype=torch.float64)
    return images, torch.randint(3, (num, 2), generator=generator(2))


def test_one_step_of_a_linear_student_worked_by_hand() -> None:
    """W = 0 gives p = (1/2, 1/2), so x = (2, 0) of class 0 moves W by rate * ((1, 0), (-1, 0)); to T = ((2, 0), (-1, 1)).

    At rate 1 the distance is ((1, 0), (0, 1)) and T's is 6, so the loss is 2/6. Its slope along the rate is
    -2/6 and along x ((-1, 0) - (0, -1)) / 6 = (-1, 1) / 6.
    """
    image, rate = doubles(2, 0)[None].requires_grad_(), torch.ones((), dtype=torch.float64, requires_grad=True)
    start, target = torch.zeros(4, dtype=torch.float64), doubles(2, 0, -1, 1)
    end = train_student(linear(), start, [(image, torch.tensor([0]))], rate)
    assert torch.allclose(end, doubles(1, 0, -1, 0))
    loss = remaining_distance(end, start=start, target=target)
    by_image, by_rate = torch.autograd.grad(loss, (image, rate))
    assert float(loss.detach()) == pytest.approx(1 / 3)
    assert float(by_rate) == pytest.approx(-1 / 3)
    assert torch.allclose(by_image, doubles(-1, 1)[None] / 6)


def test_a_student_who_takes_the_experts_steps_arrives() -> None:
    network, (images, labels) = smooth_network(), random_batches(4)
    start = flatten_parameters(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    for batch, wanted in zip(images, labels, strict=True):
        optimizer.zero_grad()
        functional.cross_entropy(network(batch), wanted).backward()
        optimizer.step()
    target, rate = flatten_parameters(network), torch.tensor(0.3, dtype=torch.float64)
    end = train_student(smooth_network(), start, zip(images, labels, strict=True), rate)
    assert float(remaining_distance(end.detach(), start=start, target=target)) < 1e-28


def test_without_a_step_the_whole_way_remains() -> None:
    start, target = doubles(1, 2, 3, 4), doubles(0, 0, 0, 1)
    end = train_student(linear(), start, [], torch.ones(()))
    assert float(remaining_distance(end.detach(), start=start, target=target)) == 1.0


def test_the_gradient_by_images_and_rate_is_that_of_finite_differences() -> None:
    network, (images, labels) = smooth_network(), random_batches(3)
    start, target = flatten_parameters(network), torch.randn(43, generator=generator(3), dtype=torch.float64)

    def loss(images: Tensor, rate: Tensor) -> Tensor:
        end = train_student(network, start, zip(images, labels, strict=True), rate)
        return remaining_distance(end, start=start, target=target)

    given = images.requires_grad_(), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, given)


def test_experts_walk_the_path_of_an_uninterrupted_training() -> None:
    method, at = MTT(**FIELDS, augment=""), context()
    last = states(method, at)[-1].tensors
    network = at.network("expert", 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=method.expert_lr)
    assert torch.equal(last["expert1/epoch0"], flatten_parameters(network))
    for epoch in range(method.path_length):
        order = torch.randperm(len(at.real.split), generator=at.stream("expert", method.path_length + epoch))
        for rows in order.split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(at.real.images(rows)), at.real.split.labels[rows]).backward()
            optimizer.step()
        assert torch.equal(last[f"expert1/epoch{epoch + 1}"], flatten_parameters(network))


def test_a_path_reaches_as_far_as_the_latest_start_asks() -> None:
    method = MTT(**FIELDS | {"max_start_epoch": 3, "expert_epochs": 2})
    names = {name for name in states(method, context())[-1].tensors if name.startswith("expert0/")}
    assert names == {f"expert0/epoch{epoch}" for epoch in range(5)}


def test_the_learning_rate_of_the_student_stays_above_zero() -> None:
    method = MTT(**FIELDS | {"iterations": 6, "rate_lr": 1e4})
    found = [float(state.tensors["rate"]) for state in states(method, context())]
    floor = float(torch.tensor(LEAST_RATE_SHARE * 0.05))
    assert min(found) >= floor
    assert len(set(found)) > 1


def test_images_move_against_the_slope_of_the_distance() -> None:
    """A step small enough lowers the loss of the very path that it was taken for."""
    method, at = MTT(**FIELDS | {"iterations": 1, "lr": 0.5, "rate_lr": 0.0}), context(double=True)
    before, after = states(method, at)[-2:]
    again = method.iterate(after, method.num_iterations - 1, at)
    assert again.numbers["matching_loss"] < after.numbers["matching_loss"]
    assert not torch.equal(before.tensors["images"], after.tensors["images"])


def test_every_pass_of_the_student_sees_every_image_once() -> None:
    method, at = MTT(**FIELDS | {"student_batch": 4, "steps": 6}, augment=""), context()
    images = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 8, 8)
    batches = method._batches(images, at, at.stream("test"))
    assert [len(batch) for batch, _ in batches] == [4, 4, 2] * 2
    for part in (batches[:3], batches[3:]):
        seen = torch.cat([batch[:, 0, 0, 0] for batch, _ in part])
        assert sorted(seen.tolist()) == list(range(10))
        assert torch.equal(torch.cat([labels for _, labels in part]), seen.long())


@each_case(
    ("ipc", "setting"),
    [(1, (50, 2, 100, 1e-7, 0.01)), (9, (50, 2, 100, 1e-7, 0.01)), (10, (30, 20, 100, 1e-5, 0.001))],
)
def test_what_is_not_given_is_as_published_for_the_nearest_lower_ipc(ipc: int, setting: tuple[float, ...]) -> None:
    assert MTT(ipc=ipc).settings == setting
    assert MTT(ipc=ipc, rate=0.5).settings == (*setting[:4], 0.5)


@each_case(
    "wrong", [{"steps": 0}, {"rate": 0.0}, {"rate_lr": -1.0}, {"momentum": 1.0}, {"augment": "tilt"}]
)
def test_impossible_fields_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is"):
        MTT(ipc=1, **wrong)  # type: ignore[arg-type]
