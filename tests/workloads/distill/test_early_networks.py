"""IDC with networks that are trained for some epochs before matching begins."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from distilling import context, images, states
from torch import nn

from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.methods.acc_dd import AccDD
from pruneyard.workloads.distill.methods.idc import ALWAYS, IDC
from pruneyard.workloads.distill.network_training import LabelledImages, NetworkState, NetworkTraining
from pruneyard.workloads.distill.perturbation import Perturbation

FIELDS: dict[str, Any] = {
    "ipc": 1,
    "iterations": 2,
    "steps": 1,
    "real_batch": 6,
    "network": NetworkTraining(num_images=20),
}


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_epochs_before_the_path_are_passes_of_the_networks_own_training() -> None:
    at, method = context(), IDC(**FIELDS, early_epochs=2)
    by_hand = at.network("match", 1)
    twice = replace(method.network, num_images=2 * len(at.real.split))
    strategy = Strategy.of(twice.augment, always=ALWAYS)
    momentum = NetworkState.initial(by_hand).momentum
    twice.run(by_hand, momentum, LabelledImages.from_real_set(at.real), at.stream("early", 1), strategy=strategy)
    assert torch.equal(weights(method.fresh_network(at, 1)), weights(by_hand))
    assert torch.equal(weights(IDC(**FIELDS).fresh_network(at, 1)), weights(at.network("match", 1)))


def test_they_teach_the_network_something() -> None:
    def accuracy(epochs: int) -> float:
        at = context()
        method = IDC(
            **FIELDS | {"network": NetworkTraining(lr=0.05, cutmix=0.0, augment="crop")}, early_epochs=epochs
        )
        network = method.fresh_network(at, 0)
        guessed = network(at.real.images(torch.arange(len(at.real.split)))).argmax(1)
        return float((guessed == at.real.split.labels).float().mean())

    assert accuracy(0) < 0.3
    assert accuracy(20) > 0.6


def test_every_path_begins_with_such_a_network() -> None:
    plain, early = (states(IDC(**FIELDS, early_epochs=epochs), context()) for epochs in (0, 1))
    assert torch.equal(images(plain[0]), images(early[0]))
    for number in (1, 2):
        assert not torch.equal(images(plain[number]), images(early[number]))


def test_a_pool_is_trained_by_epochs_of_its_own() -> None:
    with pytest.raises(
        ValueError, match="early_epochs is 3, but there is a pool of 5 networks; give pretrain_epochs instead"
    ):
        AccDD(ipc=1, early_epochs=3)
    with pytest.raises(ValueError, match="early_epochs is -1; it must be 0 or more"):
        IDC(ipc=1, early_epochs=-1)


def test_without_pool_and_perturbation_acc_dd_is_idc_on_early_networks_too() -> None:
    fields = FIELDS | {"early_epochs": 1, "lr": 0.01}
    still = AccDD(**fields, pool=0, perturbation=Perturbation(directions=0))
    assert torch.equal(images(states(still, context())[-1]), images(states(IDC(**fields), context())[-1]))
