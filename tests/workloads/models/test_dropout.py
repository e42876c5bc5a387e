"""Models with dropout: its place, no change without it, and no effect outside training mode."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from pruneyard.orchestrator.spec.codec import encode
from pruneyard.testing.cases import each_case
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.models.wrn22_2 import Wrn22x2
from pruneyard.workloads.seeding import global_stream

SHAPE = (3, 16, 16)
NUM_LAYERS = {Mlp: 2, ConvNet: 3, Wrn22x2: 9}
MODELS = list(NUM_LAYERS)


def built(make: Any, **fields: Any) -> nn.Module:
    with global_stream(0, "init"):
        network: nn.Module = make(**fields).build(image_shape=SHAPE, num_classes=10)
    return network


@each_case("make", MODELS)
def test_weights_have_the_names_and_first_values_that_they_have_without_dropout(make: Any) -> None:
    plain, dropping = built(make), built(make, dropout=0.3)
    assert not [module for module in plain.modules() if isinstance(module, nn.Dropout)]
    layers = [module for module in dropping.modules() if isinstance(module, nn.Dropout)]
    assert [layer.p for layer in layers] == [0.3] * NUM_LAYERS[make]
    first, second = plain.state_dict(), dropping.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@each_case("make", MODELS)
def test_in_evaluation_mode_it_is_the_same_network_and_in_training_mode_it_draws(make: Any) -> None:
    images = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    plain, dropping = built(make).eval(), built(make, dropout=0.5)
    with torch.no_grad():
        assert not torch.equal(dropping(images), dropping(images))
        dropping.load_state_dict(plain.state_dict())  # training passes moved running statistics
        assert torch.equal(dropping.eval()(images), plain(images))


@each_case("make", MODELS)
def test_without_dropout_the_identity_of_a_job_is_what_it_was(make: Any) -> None:
    assert "dropout" not in encode(make(), identity_only=True)
    assert encode(make(dropout=0.1), identity_only=True)["dropout"] == 0.1


@each_case("share", [-0.1, 1.0, math.nan])
@each_case("make", MODELS)
def test_shares_outside_their_range_are_refused(make: Any, share: float) -> None:
    with pytest.raises(ValueError, match=r"^dropout is"):
        make(dropout=share)
