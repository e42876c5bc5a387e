"""Networks of timm: built for the images, trained under masks, published weights from the cache of the hub, and refusals."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.models import timm as zoo
from pruneyard.workloads.models.timm import Timm
from pruneyard.workloads.networks.last_layer import last_layer_name

HAS_TIMM = importlib.util.find_spec("timm") is not None
needs_timm = pytest.mark.skipif(not HAS_TIMM, reason="the optional package timm is not installed: pip install 'pruneyard[timm]'")
SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Colour images of 32x32 pixels in four classes, which differ in brightness."""
    draws = np.random.default_rng(0)
    labels = np.arange(240) % 4
    pixels = draws.integers(0, 64, (240, 3, 32, 32)) + 48 * labels[:, None, None, None]
    file = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(file, x=pixels.astype(np.uint8), y=labels)
    return {"name": "arrays", "path": str(file)}


def spec(**model: Any) -> dict[str, Any]:
    return {
        "name": "zoo",
        "kind": "sparse",
        "data": {"name": "digits"},
        "model": {"name": "timm", **model},
        "method": {"name": "rigl", "density": 0.2, "schedule": {"every": 2}},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "budget": {"steps": 6, "batch_size": 64},
        "seeds": 1,
    }


@needs_timm
@pytest.mark.parametrize(
    ("arch", "shape", "last"),
    [("vit_tiny_patch16_224", SHAPE, "head"), ("resnet10t", SHAPE, "fc"), ("resnet10t", (1, 28, 28), "fc")],
)
def test_a_network_is_built_for_the_images_and_its_last_layer_is_found(arch: str, shape: tuple[int, int, int], last: str) -> None:
    with torch.device("meta"):
        network = Timm(arch=arch).build(image_shape=shape, num_classes=7)
    assert last_layer_name(network) == last
    assert f"{last}.weight" in prunable_weights(network)
    assert network.train()(torch.empty((2, *shape), device="meta")).shape == (2, 7)
    assert not Timm(arch=arch).may_sample


@needs_timm
@pytest.mark.parametrize("arch", ["test_vit", "test_resnet", "vit_tiny_patch16_224", "resnet10t"])
def test_a_network_trains_under_masks(arch: str, images: dict[str, Any], tmp_path: Path) -> None:
    results = run({**spec(arch=arch), "data": images}, tmp_path / "out", local=True)
    assert results.exit_code == 0, list(results.runs()["error"])
    row = results.runs().iloc[0]
    assert row["num_active"] < 0.5 * row["num_parameters"]
    assert row["train_flops"] > 0


@needs_timm
@pytest.mark.parametrize(
    ("arch", "named"),
    [
        ("test_convnext", ["stages.0.blocks.0.conv_dw.weight dense: it is a convolution with 24 groups"]),
        ("vit_tiny_patch16_dinov3_qkvb", ["blocks.0.attn.qkv.weight", "the network reads its weight without calling the layer"]),
        ("vit_tiny_patch16_224", []),
        ("resnet10t", []),
    ],
)
def test_what_is_not_covered_is_named_when_planning(arch: str, named: list[str], images: dict[str, Any]) -> None:
    (job,) = load_spec({**spec(arch=arch), "data": images}).jobs
    warnings = [warning for warning in job.workload.check(job.workload.data.load()) if "method.schedule" not in warning]
    assert bool(warnings) == bool(named)
    assert all(name in " ".join(warnings) for name in named)


@needs_timm
@pytest.mark.parametrize("num_classes", [1000, 4])
def test_published_weights_are_read_from_the_cache_except_a_last_layer_of_another_size(
    num_classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    import timm

    torch.manual_seed(1)
    published = timm.create_model("test_resnet").state_dict()
    save_file(published, tmp_path / "model.safetensors")
    asked = []

    def cached(repository: str, name: str, *, local_files_only: bool) -> str:
        asked.append((repository, name, local_files_only))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
    network = Timm(arch="test_resnet", weights="r160_in1k").build(image_shape=SHAPE, num_classes=num_classes)
    assert asked == [("timm/test_resnet.r160_in1k", "model.safetensors", True)]
    own = network.state_dict()
    differing = {name for name, tensor in own.items() if not torch.equal(tensor, published[name])}
    assert differing == ({"fc.weight", "fc.bias"} if num_classes == 4 else set())


@needs_timm
def test_weights_that_are_not_in_the_cache_are_not_downloaded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"of timm/resnet10t.c3_in1k is not in the cache .*; set download: true, or fetch it"):
        Timm(arch="resnet10t", weights="c3_in1k").build(image_shape=SHAPE, num_classes=10)


@needs_timm
@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"arch": "resnet10x"}, r"model.arch: is 'resnet10x'; it must be one of .*, ...; did you mean resnet10\w\?"),
        ({"arch": "resnet10t.c3_in1k"}, "set arch: resnet10t and weights: c3_in1k"),
        ({"arch": "resnet10t", "weights": "c4"}, "model.weights: is 'c4'; it must be one of c3_in1k"),
        ({"arch": "resnet10t", "weights": "a/b.safetensors"}, "give a file by initial.path"),
    ],
)
def test_unknown_names_are_refused(table: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_spec(spec(**table))


@needs_timm
def test_images_that_a_network_cannot_take_are_refused() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=r"vit_tiny_patch16_224 cannot be applied to images"):
        Timm(arch="vit_tiny_patch16_224").build(image_shape=(3, 8, 8), num_classes=2)


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"model: name is timm, which needs the package timm: pip install 'pruneyard\[timm\]'"):
        load_spec(spec(arch="resnet10t"))
