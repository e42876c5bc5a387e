"""The training of a network between two steps of the images."""

from typing import Any

import pytest
import torch
from distilling import context, generator
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.testing.cases import each_case
from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.methods.idc import IDC
from pruneyard.workloads.distill.network_training import LabelledImages, NetworkState, NetworkTraining

PLAIN: dict[str, Any] = {"augment": "", "cutmix": 0.0}


def pile(num: int = 10) -> LabelledImages:
    """Returns images whose pixels are all i in image i, so that a batch shows which rows it has."""
    images = torch.arange(num, dtype=torch.float32).view(num, 1, 1, 1).expand(num, 1, 8, 8)
    return LabelledImages.from_tensors(images, torch.arange(num) % 10, num_classes=10)


def rows_of(training: NetworkTraining, num: int = 10) -> list[list[int]]:
    found = training.batches(pile(num), generator(), Strategy())
    return [images[:, 0, 0, 0].long().tolist() for images, _ in found]


def test_batches_are_different_rows_up_to_the_number_wanted() -> None:
    for num_images, sizes in ((8, [3, 3, 2]), (7, [3, 4])):  # batch norm needs more than a single row
        batches = rows_of(NetworkTraining(num_images=num_images, batch_size=3, **PLAIN))
        assert [len(batch) for batch in batches] == sizes
        assert len({row for batch in batches for row in batch}) == num_images


def test_more_rows_than_images_are_several_passes_in_orders_of_their_own() -> None:
    batches = rows_of(NetworkTraining(num_images=25, batch_size=10, **PLAIN))
    assert [sorted(batch) for batch in batches[:2]] == [list(range(10))] * 2
    assert batches[0] != batches[1]
    assert len(batches[2]) == 5


def test_no_rows_leave_the_network_where_it_is() -> None:
    at = context()
    network = at.network("any")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    training = NetworkTraining(num_images=0)
    after = training.run(
        network, NetworkState.initial(network).momentum, pile(), generator(), strategy=Strategy()
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.weights.items())


def test_about_the_wanted_share_of_batches_is_mixed() -> None:
    """Mixed batches have probabilities for labels; 400 draws of one half, within four standard deviations."""
    training = NetworkTraining(num_images=400, batch_size=1, augment="", cutmix=0.5)
    mixed = [targets.ndim == 2 for _, targets in training.batches(pile(), generator(), Strategy())]
    assert sum(mixed) == pytest.approx(200, abs=40)


def sgd(
    network: nn.Module, batches: list[tuple[Tensor, Tensor]], training: NetworkTraining
) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(
        network.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    for images, labels in batches:
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network.state_dict()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_two_steps_are_one_uninterrupted_training(momentum: float) -> None:
    """Weights and momentum go through a position and back, as through a checkpoint."""
    at, training = context(double=True), NetworkTraining(num_images=24, batch_size=8, momentum=momentum, **PLAIN)
    real, strategy = LabelledImages.from_real_set(at.real), Strategy()
    position, batches = NetworkState.initial(at.network("any")), []
    for step in range(2):
        batches += list(training.batches(real, generator(step), strategy))
        position = NetworkState.from_tensors(position.tensors)
        position = training.run(
            position.network(at), position.momentum, real, generator(step), strategy=strategy, chunk=3
        )
    for name, tensor in sgd(at.network("any"), batches, training).items():
        torch.testing.assert_close(position.weights[name], tensor, rtol=0, atol=1e-12)


def test_a_position_is_not_written_to() -> None:
    at = context()
    start = NetworkState.initial(at.network("any"))
    before = {name: tensor.clone() for name, tensor in start.tensors.items()}
    training = NetworkTraining(num_images=16, batch_size=8, **PLAIN)
    training.run(
        start.network(at), start.momentum, LabelledImages.from_real_set(at.real), generator(), strategy=Strategy()
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.tensors.items())


@each_case(
    "fields",
    [
        {"num_images": -1},
        {"batch_size": 0},
        {"lr": 0},
        {"momentum": 1},
        {"weight_decay": -1},
        {"cutmix": 2},
        {"augment": "sparkle"},
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(ValueError, match=f"^{name} is"):
        NetworkTraining(**fields)


@each_case(
    "fields",
    [{"factor": 0}, {"steps": 0}, {"lr": 0}, {"chunk": 0}, {"cache_mb": -1}, {"distance": "far"}, {"augment": "sparkle"},
     {"class_step": "any"}, {"space": "normalised"}, {"precision": "int8"}],
)  # fmt: skip
def test_what_idc_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(ValueError, match=f"^{name} is"):
        IDC(ipc=1, **fields)
