"""The last layer of networks that do not call it `classifier`, and the check of plug-ins' networks when a study is planned."""

import math
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.cases import each_case
from pruneyard.workloads.networks.features import features
from pruneyard.workloads.networks.last_layer import last_layer_name
from pruneyard.workloads.networks.output_check import checked_network

SHAPE, NUM_CLASSES = (1, 4, 4), 3


def sequence(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


class Reversed(nn.Module):
    """Defines its last layer first."""

    def __init__(self, last: str, num_classes: int) -> None:
        super().__init__()
        self.add_module(last, nn.Linear(5, num_classes))
        self.last, self.body = last, nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.get_submodule(self.last)(self.body(images.flatten(1)))  # type: ignore[no-any-return]


class Doubled(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return 2 * self.head(images.flatten(1))  # type: ignore[no-any-return]


class Normalised(nn.Module):
    """Defines its first layer, which is not linear, after its last one."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(16, num_classes)
        self.norm = nn.LayerNorm(16)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(images.flatten(1)))  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Plugged:
    """A model plug-in of a third party, since this file is not part of the package."""

    form: str

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        match self.form:
            case "head":
                body = nn.Linear(math.prod(image_shape), 5)
                return sequence(flat=nn.Flatten(), body=body, relu=nn.ReLU(), head=nn.Linear(5, num_classes))
            case "doubled":
                return Doubled(num_classes)
            case "normalised":
                return Normalised(num_classes)
            case "wide":
                return sequence(flat=nn.Flatten(), head=nn.Linear(math.prod(image_shape), num_classes + 1))
            case last:
                return Reversed(last, num_classes)


def checked(form: str) -> tuple[nn.Module, list[str]]:
    return checked_network(Plugged(form=form), image_shape=SHAPE, num_classes=NUM_CLASSES)


@each_case(
    ("network", "name"),
    [
        (sequence(body=nn.Linear(4, 4), head=nn.Linear(4, 3)), "head"),
        (sequence(body=nn.Linear(4, 4), classifier=nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))), "classifier.2"),
        (sequence(classifier=nn.Linear(4, 3), body=nn.Linear(4, 4)), "classifier"),
        (sequence(body=nn.Linear(4, 4), head=nn.Linear(4, 3), pool=nn.Flatten()), "head"),
    ],
)
def test_the_last_layer_is_the_classifier_or_else_the_linear_layer_defined_last(network: nn.Module, name: str) -> None:
    assert last_layer_name(network) == name


@each_case("network", [sequence(body=nn.Linear(4, 4), norm=nn.LayerNorm(4)), nn.Flatten()])
def test_a_network_that_ends_otherwise_has_no_features(network: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"does not end with nn\.Linear.*define that layer last, or call it classifier"):
        last_layer_name(network)


def test_features_of_a_plug_ins_network_are_the_inputs_of_its_last_layer() -> None:
    network, images = Plugged(form="head").build(image_shape=SHAPE, num_classes=NUM_CLASSES), torch.rand(2, *SHAPE)
    torch.testing.assert_close(features(network, images), network[:3](images))  # type: ignore[index]


def test_a_plan_accepts_a_last_layer_of_any_name() -> None:
    network, warnings = checked("head")
    assert warnings == []
    assert all(parameter.is_meta for parameter in network.parameters())


def test_a_plan_accepts_a_classifier_that_is_defined_first() -> None:
    assert checked("classifier")[1] == []


def test_a_plan_refuses_a_network_whose_last_layer_would_be_mistaken() -> None:
    with pytest.raises(ValueError, match=r"the output of out, but body is taken for its last layer.*; rename out to classifier$"):
        checked("out")


def test_a_plan_refuses_a_network_with_another_number_of_outputs() -> None:
    with pytest.raises(ValueError, match=r"it must return logits \(2, 3\)"):
        checked("wide")


def test_a_plan_warns_of_a_network_that_changes_the_output_of_its_last_layer() -> None:
    (warning,) = checked("doubled")[1]
    assert "changes the output of its last layer, head" in warning


def test_a_plan_warns_of_a_last_layer_that_will_not_be_found() -> None:
    (warning,) = checked("normalised")[1]
    assert "defines other layers after its last one, head" in warning
    assert warning.endswith("rename head to classifier, or define it last")
