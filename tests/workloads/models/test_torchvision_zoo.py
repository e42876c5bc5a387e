"""Networks of torchvision's zoo: any classifier, grey images, published weights from the cache."""

import hashlib
from pathlib import Path

import pytest
import torch
from torchvision import models

from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.models import torchvision as zoo
from pruneyard.workloads.models.torchvision import Torchvision
from pruneyard.workloads.networks.last_layer import last_layer_name

SHAPE = (3, 32, 32)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a network of 10 classes, in the cache under the name of a published file."""
    torch.manual_seed(1)
    made = models.get_model("shufflenet_v2_x0_5", num_classes=10).state_dict()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(made, folder / "made")
    digits = hashlib.sha256((folder / "made").read_bytes()).hexdigest()[:8]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(zoo, "published_url", lambda arch, weights: f"https://example.org/{arch}-{digits}.pth")
    return (folder / "made").rename(folder / f"shufflenet_v2_x0_5-{digits}.pth")


@pytest.mark.parametrize(
    ("arch", "shape", "last"),
    [
        ("mobilenet_v3_small", SHAPE, "classifier.3"),
        ("resnet18", (1, 28, 28), "fc"),
        ("vit_b_32", (3, 64, 64), "heads.head"),
        ("inception_v3", (3, 96, 96), "fc"),
    ],
)
def test_the_last_layer_of_a_classifier_is_found(arch: str, shape: tuple[int, int, int], last: str) -> None:
    with torch.device("meta"):
        network = Torchvision(arch=arch).build(image_shape=shape, num_classes=7)
    assert last_layer_name(network) == last
    assert f"{last}.weight" in prunable_weights(network)
    assert network.train()(torch.empty((2, *shape), device="meta")).shape == (2, 7)


def test_grey_images_are_repeated_on_three_channels() -> None:
    torch.manual_seed(0)
    network = Torchvision(arch="shufflenet_v2_x0_5").build(image_shape=(1, 16, 16), num_classes=3).eval()
    reference = models.get_model("shufflenet_v2_x0_5", num_classes=3).eval()
    reference.load_state_dict(network.state_dict())
    grey = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(network(grey), reference(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("num_classes", [10, 4])
def test_published_weights_are_loaded_except_a_last_layer_of_another_size(num_classes: int, cached: Path) -> None:
    model = Torchvision(arch="shufflenet_v2_x0_5", weights="IMAGENET1K_V1")
    own, published = model.build(image_shape=SHAPE, num_classes=num_classes).state_dict(), torch.load(cached, weights_only=True)
    differing = {name for name, tensor in own.items() if not torch.equal(tensor, published[name])}
    assert differing == ({"fc.weight", "fc.bias"} if num_classes == 4 else set())


def test_weights_are_downloaded_only_if_asked_and_a_damaged_file_is_refused(cached: Path) -> None:
    model = Torchvision(arch="shufflenet_v2_x0_5", weights="IMAGENET1K_V1")
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"is damaged: its SHA-256 does not start with the digits in its name"):
        model.build(image_shape=SHAPE, num_classes=10)
    cached.unlink()
    with pytest.raises(ValueError, match=r"shufflenet.*.pth does not exist, so set download: true, or put https://example.org/"):
        model.build(image_shape=SHAPE, num_classes=10)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"arch": "resnet81"}, r"model.arch: is 'resnet81'; it must be one of alexnet, .*; did you mean resnet18\?"),
        ({"arch": "fcn_resnet50"}, r"model.arch: is 'fcn_resnet50'; it must be one of"),
        ({"arch": "resnet18", "weights": "DEFAULT"}, r"model.weights: is 'DEFAULT'; it must be one of IMAGENET1K_V1"),
    ],
)
def test_unknown_names_are_refused(table: dict[str, str], message: str) -> None:
    spec = {"name": "zoo", "kind": "sparse", "data": {"name": "digits"}, "method": {"name": "dense"}, "budget": {"steps": 2}}
    with pytest.raises(SpecError, match=message):
        load_spec({**spec, "model": {"name": "torchvision", **table}})


def test_images_that_a_network_cannot_take_are_refused() -> None:
    with pytest.raises(ValueError, match=r"arch is vit_b_16, whose images must be square; these are 32x16"):
        Torchvision(arch="vit_b_16").build(image_shape=(3, 32, 16), num_classes=2)
    with torch.device("meta"), pytest.raises(ValueError, match=r"alexnet cannot be applied to images \(2, 3, 8, 8\)"):
        Torchvision(arch="alexnet").build(image_shape=(3, 8, 8), num_classes=2)
