"""A finished network for inference: the rebuilt model with its trained weights, zero outside their masks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pruneyard.workloads.masks.choice import choose_prunable
from pruneyard.workloads.masks.masks import prunable_layers, prunable_weights
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.flops import forward_flops, network_macs
from pruneyard.workloads.networks.functions import fixed_inputs
from pruneyard.workloads.networks.model_source import check_sources
from pruneyard.workloads.networks.shared_tensors import assign_state
from pruneyard.workloads.networks.unsaved_tensors import fill_unsaved
from pruneyard.workloads.networks.weight_reads import weights_read_directly
from pruneyard.workloads.plugins import find


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """The architecture of a network and its input format, per channel: (x - mean) / std of pixels / 255 or of features."""

    model: Mapping[str, Any]  # the spec's table: `name` and the fields of that plug-in
    image_shape: tuple[int, ...]  # (C, H, W), or that of features
    num_outputs: int  # logits; more than the classes if the objective has extra outputs
    mean: tuple[float, ...]
    std: tuple[float, ...]
    prunable: tuple[str, ...] = ()  # patterns of the weights that were pruned; () for all
    pixels: bool = True  # whether inputs are pixels; otherwise they are features
    sources: Mapping[str, str] = field(default_factory=dict)  # of models of the user's own, see `model_source.sources_of`

    @classmethod
    def of_table(cls, table: Mapping[str, Any]) -> "Blueprint":
        """Restores a blueprint from plain data. Raises `KeyError` for a missing and `ValueError` for an invalid entry."""
        if table.get("family", "models") != "models":
            raise ValueError(f"its family is {table['family']}; only networks on images or features can be rebuilt")
        image_shape = tuple(int(size) for size in table["image_shape"])
        mean, std = (tuple(float(value) for value in table[name]) for name in ("mean", "std"))
        if (
            not image_shape
            or min(*image_shape, int(table["num_outputs"])) < 1
            or not len(mean) == len(std) == image_shape[0]
        ):
            raise ValueError(
                f"image_shape is {table['image_shape']} and does not fit mean, std or num_outputs"
            )
        return cls(
            model=dict(table["model"]),
            image_shape=image_shape,
            num_outputs=int(table["num_outputs"]),
            mean=mean,
            std=std,
            prunable=tuple(str(pattern) for pattern in table.get("prunable", ())),
            pixels=bool(table.get("pixels", True)),  # missing in manifests of earlier versions
            sources=dict(table.get("sources", {})),
        )

    @property
    def table(self) -> dict[str, Any]:
        """Plain data for a manifest, from which `of_table` restores the blueprint."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        neutral = [name for name in ("prunable", "sources") if not values[name]]
        return {"family": "models", **{name: value for name, value in values.items() if name not in neutral}}

    @property
    def builder(self) -> ModelBuilder:
        """The model plug-in of the table.

        Raises `ValueError` if the table does not describe a model, or the source of a model of the user's own has changed.
        """
        try:
            builder = _built(self.model)
        except TypeError as error:
            raise ValueError(
                f"model is {dict(self.model)}, which does not fit that model: {error}"
            ) from error
        check_sources(builder, self.sources)
        return builder

    @property
    def original(self) -> "Blueprint":
        """Returns the blueprint of the network from which channels were removed; the same one if none were."""
        model = self.model
        while model.get("name") == "narrowed":
            model = model["base"]
        return self if model is self.model else replace(self, model=dict(model))

    def empty_network(self) -> nn.Module:
        """Returns the network in evaluation mode on the meta device, without sampling or storing weights.

        Raises `ValueError` as `builder` does.
        """
        with torch.device("meta"):
            return self.build().eval()

    def build(self) -> nn.Module:
        """Returns a new network on the default device. Raises `ValueError` as `builder` does."""
        return self.builder.build(image_shape=self.image_shape, num_classes=self.num_outputs)


def _built(table: Mapping[str, Any]) -> ModelBuilder:
    """Returns the model plug-in of a table; a table within it, with a name, is a model too."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items() if key != "name"}
    models = {key: _built(value) for key, value in values.items() if isinstance(value, Mapping) and "name" in value}
    found: ModelBuilder = find("models", str(table.get("name")))(**values | models)
    return found


@dataclass(frozen=True, kw_only=True)
class FinishedNetwork:
    """A network in evaluation mode on the CPU, with its masks by parameter name.

    A prunable weight without a mask was kept dense.
    """

    blueprint: Blueprint
    network: nn.Module
    masks: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        blueprint: Blueprint,
        *,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        network: nn.Module | None = None,
    ) -> "FinishedNetwork":
        """Returns the blueprint's network with `weights`, set to zero outside `masks`, without sampling.

        network: receives the weights instead, if given; its own values do not matter. Raises `ValueError` if weights or
        masks do not fit, or a weight is not finite.
        """
        applied = dict(weights)
        for name, mask in masks.items():
            if name not in weights or weights[name].shape != mask.shape or mask.dtype != torch.bool:
                raise ValueError(f"masks has {name}, which is not a boolean tensor of that weight's shape")
            applied[name] = torch.where(mask, weights[name], 0.0)
        bad = [n for n, t in applied.items() if t.is_floating_point() and not torch.isfinite(t).all()]
        if bad:
            raise ValueError(f"weights has numbers that are not finite in {', '.join(bad)}")
        network = blueprint.empty_network() if network is None else network
        choose_prunable(network, blueprint.prunable, masked=masks.keys())
        load_weights(network, applied)
        fill_unsaved(network, blueprint.build)
        return cls(blueprint=blueprint, network=network, masks=dict(masks))

    @cached_property
    def original(self) -> "FinishedNetwork":
        """The whole dense network whose speed and size this one is compared with.

        It is this one, unless channels were removed: then the network from which they were, with random weights, as its trained
        ones are not kept.
        """
        blueprint = self.blueprint.original
        if blueprint is self.blueprint:
            return self
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = blueprint.build()
        return FinishedNetwork(blueprint=blueprint, network=network.eval().requires_grad_(False), masks={})

    @cached_property
    def layers(self) -> Mapping[str, nn.Module]:
        """The prunable layers by the names of their weights, in module order; a shared weight occurs once."""
        return prunable_layers(self.network)

    @cached_property
    def read_weights(self) -> frozenset[str]:
        """The prunable weights that the forward pass reads without calling their layers; no kernel can replace these layers."""
        return weights_read_directly(self.network, self.blueprint.image_shape)

    @cached_property
    def _macs(self) -> Mapping[str, int]:
        return network_macs(self.network, self.blueprint.image_shape)

    @property
    def forward_flops(self) -> float:
        """Counted FLOPs of one input, each layer weighted by its density: what sparse kernels would execute."""
        return forward_flops(self._macs, self.masks)

    @property
    def dense_forward_flops(self) -> float:
        """Counted FLOPs of one input through the dense network."""
        return forward_flops(self._macs, {})

    @property
    def density(self) -> float:
        """Active share of all prunable weights, in (0, 1]; layers that were kept dense count in full. 1 without any."""
        sizes = {name: weight.numel() for name, weight in prunable_weights(self.network).items()}
        active = sum(int(self.masks[n].sum()) if n in self.masks else size for n, size in sizes.items())
        return active / sum(sizes.values()) if sizes else 1.0

    def random_images(self, batch_size: int, *, seed: int = 0) -> Tensor:
        """Returns standard normal inputs (batch_size, *image_shape), the same for the same seed."""
        return fixed_inputs(self.blueprint.image_shape, batch_size, seed=seed)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Assigns `weights` to all parameters and saved buffers. Raises `ValueError` if names or shapes differ."""
    try:
        assign_state(network, weights)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the model: {error}") from error
    network.requires_grad_(False)
