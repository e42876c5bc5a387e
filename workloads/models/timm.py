"""Any classifier of timm, by its name there, with random or published weights. Needs the package timm.

Networks are built for the channels of the images and, where timm lets them, for their size. With published weights, a last
layer for another number of classes starts at random, and timm adapts the first layer and position embeddings to the images.
Dropout is off, as it is by default in timm.

Reference: Wightman 2019, PyTorch Image Models (https://github.com/huggingface/pytorch-image-models)
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from pruneyard.workloads.fields import NOT_IDENTITY
from pruneyard.workloads.models._known_names import check_known
from pruneyard.workloads.networks.builder import image_sides
from pruneyard.workloads.networks.output_check import check_outputs
from pruneyard.workloads.plugins import Settings

__all__ = ["Timm"]

PACKAGE = "timm"
WEIGHTS_FILE = "model.safetensors"  # of a repository of the hub; files that would be unpickled are never read
MAX_LISTED = 8  # names in a message; timm has more than a thousand


@dataclass(frozen=True, kw_only=True)
class Timm:
    """A network of timm.

    arch: its name there, such as vit_tiny_patch16_224, without a tag.
    weights: the tag of its published weights, such as augreg_in21k_ft_in1k; empty for random ones.
    download: whether to download the weights if they are not in the cache of the Hugging Face hub, `$HF_HOME/hub`.
    """

    arch: str
    weights: str = ""
    download: bool = field(default=False, metadata=NOT_IDENTITY)
    optional_package: ClassVar[str] = PACKAGE
    examples: ClassVar[tuple[Settings, ...]] = ({"arch": "test_resnet"},)

    def __post_init__(self) -> None:
        arch, dot, tag = self.arch.partition(".")
        if dot:
            raise ValueError(f"arch is {self.arch!r}; it must be a name without a tag: set arch: {arch} and weights: {tag}")
        check_known("arch", arch, _timm().list_models(), most=MAX_LISTED)
        if "/" in self.weights or self.weights.endswith((".safetensors", ".pth", ".pt")):
            raise ValueError(f"weights is {self.weights!r}; it must be the tag of published weights; give a file by initial.path")
        if self.weights:
            published = [name.partition(".")[2] for name in _timm().list_pretrained(arch)]
            check_known("weights", self.weights, [tag for tag in published if tag], most=MAX_LISTED)

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
        options: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
        if _takes_size(self.arch):
            options["img_size"] = (height, width)
        if self.weights:
            file = self._weights_file()
            # Tensors without numbers have nothing to load.
            if torch.get_default_device().type != "meta":
                options |= {"pretrained": True, "pretrained_cfg": self.weights, "pretrained_cfg_overlay": {"file": file}}
        try:
            network: nn.Module = _timm().create_model(self.arch, **options)
        # Whatever timm raises: it has no error of its own.
        except Exception as error:
            came = f"{type(error).__name__}: {error}"
            raise ValueError(f"arch is {self.arch}, which cannot be built for images {image_shape}: {came}") from error
        check_outputs(network, table=self, call=self.arch, image_shape=image_shape, num_classes=num_classes)
        return network

    def _weights_file(self) -> str:
        """Returns the file of the published weights in the cache, after downloading it if that is allowed."""
        hub = importlib.import_module("huggingface_hub")
        repository = published_repository(self.arch, self.weights)
        try:
            return str(hub.hf_hub_download(repository, WEIGHTS_FILE, local_files_only=not self.download))
        # The hub's client raises errors of the network, of the file system and of its own.
        except Exception as error:
            if not self.download:
                missing = f"weights is {self.weights}; {WEIGHTS_FILE} of {repository} is not in the cache of the Hugging Face hub"
                fetch = f"hf download {repository} {WEIGHTS_FILE}"
                raise ValueError(f"{missing}; set download: true, or fetch it: {fetch}") from error
            came = f"{type(error).__name__}: {error}"
            raise ValueError(f"weights is {self.weights}; {repository} could not be downloaded: {came}") from error


def published_repository(arch: str, tag: str) -> str:
    """Returns the repository of the Hugging Face hub with published weights. Raises `ValueError` if they are not there."""
    repository = _timm().get_pretrained_cfg(f"{arch}.{tag}").hf_hub_id
    if not repository:
        raise ValueError(f"weights is {tag}; timm has no safetensors of {arch}.{tag} on the Hugging Face hub")
    return str(repository)


def _timm() -> Any:
    """Returns the package. Raises `ValueError` that says how to install it."""
    if find_spec(PACKAGE) is None:
        raise ValueError(f"name is timm, which needs the package timm: pip install 'pruneyard[{PACKAGE}]'")
    return importlib.import_module(PACKAGE)


def _without_storage(arch: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = _timm().create_model(arch, **options)
    return network


@cache
def _takes_size(arch: str) -> bool:
    """Returns whether a network is built for images of a given size, as transformers are."""
    configuration = cast(Mapping[str, Any], _without_storage(arch).default_cfg)
    try:
        _without_storage(arch, img_size=configuration["input_size"][1:])
    except TypeError:  # no such argument
        return False
    return True


@cache
def _has_random_layers(arch: str) -> bool:
    modules = list(_without_storage(arch).modules())
    drops = [module.p for module in modules if isinstance(module, _DropoutNd)]
    return any(share > 0 for share in [*drops, *(getattr(module, "drop_prob", None) or 0.0 for module in modules)])
