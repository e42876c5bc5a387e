"""Any classifier of torchvision's model zoo, by its name there, with random or published weights.

Grey images are repeated on three channels. With published weights, a last layer for another number of classes starts at random.
Vision transformers are built for the size of the images. Dropout is torchvision's.

Reference: TorchVision maintainers and contributors 2016, TorchVision: PyTorch's Computer Vision library
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision import models
from torchvision.ops import StochasticDepth

from pruneyard.workloads.fields import NOT_IDENTITY
from pruneyard.workloads.models._known_names import check_known
from pruneyard.workloads.networks.builder import image_sides
from pruneyard.workloads.networks.last_layer import last_layer_name
from pruneyard.workloads.networks.output_check import check_outputs
from pruneyard.workloads.plugins import Settings

__all__ = ["Torchvision"]

AUXILIARY = ("googlenet", "inception_v3")  # return several outputs in training unless told otherwise
TRANSFORMERS = "vit_"


@dataclass(frozen=True, kw_only=True)
class Torchvision:
    """A network of `torchvision.models`.

    arch: its name there, such as resnet18.
    weights: a name of its published weights, such as IMAGENET1K_V1; empty for random ones.
    download: whether to download the weights if they are not in the cache of PyTorch, `$TORCH_HOME/hub/checkpoints`.
    """

    arch: str
    weights: str = ""
    download: bool = field(default=False, metadata=NOT_IDENTITY)
    examples: ClassVar[tuple[Settings, ...]] = ({"arch": "shufflenet_v2_x0_5"},)

    def __post_init__(self) -> None:
        check_known("arch", self.arch, architectures())
        if self.weights:
            # DEFAULT is another set in another version of torchvision.
            published = [name for name in models.get_model_weights(self.arch).__members__ if name != "DEFAULT"]
            check_known("weights", self.weights, published)

    @property
    def may_sample(self) -> bool:
        """Returns whether forward passes in training mode sample random numbers, as dropout and stochastic depth do."""
        return _has_random_layers(self.arch)

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`.

        Raises `ValueError` for images that the network cannot take, and for published weights that are not here and not to be
        downloaded.
        """
        channels, height, width = image_sides(image_shape)
        if channels not in (1, 3):
            raise ValueError(f"arch is {self.arch}, whose images must have 1 or 3 channels; these have {channels}")
        options: dict[str, Any] = {"num_classes": num_classes}
        if self.arch in AUXILIARY:
            options |= {"aux_logits": False, "init_weights": True}
        if self.arch.startswith(TRANSFORMERS):
            if height != width:
                raise ValueError(f"arch is {self.arch}, whose images must be square; these are {height}x{width}")
            options["image_size"] = height
        try:
            network: nn.Module = models.get_model(self.arch, weights=None, **options)
        except (ValueError, AssertionError, RuntimeError) as error:
            raise ValueError(f"arch is {self.arch}, which cannot be built for images {image_shape}: {error}") from error
        if channels == 1:
            network.register_forward_pre_hook(_repeat_grey)
        check_outputs(network, table=self, call=self.arch, image_shape=image_shape, num_classes=num_classes)
        if self.weights:
            file = self._weights_file()
            if not next(network.parameters()).is_meta:
                _load(network, _published_tensors(file))
        return network

    def _weights_file(self) -> Path:
        """Returns the file of the published weights in the cache, after downloading it if that is allowed."""
        url = published_url(self.arch, self.weights)
        file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        if not file.is_file():
            if not self.download:
                raise ValueError(f"weights is {self.weights}; {file} does not exist, so set download: true, or put {url} there")
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, str(file), hash_prefix=_hash_prefix(file), progress=False)
            except (OSError, RuntimeError) as error:
                raise ValueError(f"weights is {self.weights}; {url} could not be downloaded: {error}") from error
        return file


@cache
def architectures() -> list[str]:
    """Returns the names of torchvision's classifiers of images."""
    return models.list_models(module=models)  # type: ignore[no-any-return]


@cache
def _has_random_layers(arch: str) -> bool:
    with torch.device("meta"):
        modules = list(models.get_model(arch, weights=None).modules())
    return any(getattr(module, "p", 0) > 0 for module in modules if isinstance(module, (_DropoutNd, StochasticDepth)))


def published_url(arch: str, weights: str) -> str:
    """Returns the address of published weights."""
    return str(models.get_model_weights(arch)[weights].url)


def _hash_prefix(file: Path) -> str:
    """Returns the first digits of the SHA-256 of published weights, which their file name ends with."""
    return file.stem.rpartition("-")[2]


@cache
def _published_tensors(file: Path) -> Mapping[str, Tensor]:
    if not hashlib.sha256(file.read_bytes()).hexdigest().startswith(_hash_prefix(file)):
        raise ValueError(f"{file} is damaged: its SHA-256 does not start with the digits in its name; delete it")
    # Published as pickles; `weights_only` reads nothing but tensors.
    tensors: Mapping[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return tensors


def _load(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies published tensors into a network, except a last layer of another size. Raises `ValueError` if others do not fit."""
    own = network.state_dict()
    last = {f"{last_layer_name(network)}.{name}" for name in ("weight", "bias")}
    for name, tensor in own.items():
        if name not in tensors:
            if name.endswith("num_batches_tracked"):  # missing in weights of the first versions
                continue
            raise ValueError(f"the published weights lack {name}")
        if tensors[name].shape == tensor.shape:
            with torch.no_grad():
                tensor.copy_(tensors[name])
        elif name not in last:
            found, expected = tuple(tensors[name].shape), tuple(tensor.shape)
            raise ValueError(f"the published weights have {name} of shape {found}; the network needs {expected}")


def _repeat_grey(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[0].expand(-1, 3, -1, -1)
