"""Finished networks with tensors that their state dict does not hold."""

import importlib.util

import pytest
import torch
from distilling import context
from torch import Tensor, nn

from pruneyard.workloads.distill.network_tensors import prefixed_tensors, rebuild_network
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.plugins import find
from pruneyard.workloads.user_code.registration import register

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


class Shifted(nn.Module):
    """Adds a fixed shift, in a non-persistent buffer, and a scale, in a plain attribute."""

    def __init__(self, in_features: int, num_classes: int, sampled: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(in_features, num_classes)
        shift = torch.rand(in_features) if sampled else torch.arange(in_features) / in_features
        self.register_buffer("shift", shift, persistent=False)
        self.scale = torch.tensor(2.0)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.scale * images.flatten(1) + self.shift)
        return logits


def blueprint_of(**model: object) -> Blueprint:
    return Blueprint(model=model, image_shape=(1, 8, 8), num_outputs=4, mean=(0.0,), std=(1.0,))


def test_what_a_model_computes_and_does_not_save_is_computed_anew() -> None:
    blueprint = blueprint_of(name=register(Shifted))
    trained, images = blueprint.build(), torch.rand(3, 1, 8, 8)
    state = torch.get_rng_state()
    found = FinishedNetwork.of(blueprint, weights=trained.state_dict(), masks={})
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(found.network(images), trained(images))


def test_what_a_model_samples_and_does_not_save_is_refused_by_name() -> None:
    blueprint = blueprint_of(name=register(Shifted), sampled=True)
    weights = blueprint.build().state_dict()
    with pytest.raises(ValueError, match="the weights lack shift, which the model does not save, and which is not the same each"):
        FinishedNetwork.of(blueprint, weights=weights, masks={})


def test_a_network_in_the_state_of_a_distiller_is_rebuilt_with_it() -> None:
    at = context(model=find("models", register(Shifted))())
    trained, inputs = at.network("teacher"), torch.rand(3, 1, 8, 8)
    rebuilt = rebuild_network("teacher/", prefixed_tensors("teacher/", trained), at)
    torch.testing.assert_close(rebuilt(inputs), trained(inputs))


@needs_timm
def test_a_network_of_timm_with_non_persistent_buffers_is_rebuilt() -> None:
    blueprint = Blueprint(
        model={"name": "timm", "arch": "levit_128s"}, image_shape=(3, 64, 64), num_outputs=4, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    trained, images = blueprint.build().eval(), torch.rand(1, 3, 64, 64)
    found = FinishedNetwork.of(blueprint, weights=trained.state_dict(), masks={})
    torch.testing.assert_close(found.network(images), trained(images))
