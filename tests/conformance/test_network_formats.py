"""Rules that every export format must keep. Members are found by their files."""

from functools import cache

import pytest
import torch
from torch import Tensor

from pruneyard.testing.finished_networks import SMALL, MakeMask, finished, random_mask
from pruneyard.testing.plug_in import build
from pruneyard.workloads.deploy.format import Exported, Format, relative_difference
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.plugins import names

FAMILY = "deploy.formats"

SLOW = {"onnx": pytest.mark.slow}  # its exporter takes 10 s to import
pytestmark = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW.get(name, ())) for name in names(FAMILY)]
)


def whole_rows(weight: Tensor, generator: torch.Generator) -> Tensor:
    active_rows = torch.rand(len(weight), generator=generator) < 0.5
    active_rows[0] = True
    return active_rows.reshape(-1, *(1,) * (weight.ndim - 1)).expand_as(weight).contiguous()


def blocks(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Returns a mask of blocks of 2x2 of the weight as a matrix."""
    rows, columns = len(weight), weight[0].numel()
    if rows % 2 or columns % 2:
        return torch.ones(weight.shape, dtype=torch.bool)
    active = torch.rand(rows // 2, columns // 2, generator=generator) < 0.3
    return active.repeat_interleave(2, 0).repeat_interleave(2, 1).reshape(weight.shape)


def two_of_four(weight: Tensor, generator: torch.Generator) -> Tensor:
    scores = torch.rand(weight.numel() // 4, 4, generator=generator)
    return torch.zeros_like(scores).scatter_(1, scores.topk(2).indices, 1).bool().reshape(weight.shape)


def equal_rows(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Returns a mask with three active weights in each row of the weight as a matrix."""
    scores = torch.rand(len(weight), weight[0].numel(), generator=generator)
    return torch.zeros_like(scores).scatter_(1, scores.topk(3).indices, 1).bool().reshape(weight.shape)


PATTERNS: tuple[MakeMask, ...] = (random_mask(0.1), equal_rows, whole_rows, blocks, two_of_four)
"""Of masks; a format must take networks with one of them, or say why it takes none on this machine."""


@cache
def format_and_network(name: str, model: str) -> tuple[Format, FinishedNetwork]:
    """Returns a format and a network that it takes; skips the test where it takes none on this machine."""
    export_format: Format = build(FAMILY, name)
    networks = [finished(model, pattern, except_for=("classifier.weight",)) for pattern in PATTERNS]
    network = next((network for network in networks if not export_format.fit(network).refusal), None)
    if network is None:
        pytest.skip("; ".join(dict.fromkeys(export_format.fit(network).refusal for network in networks)))
    return export_format, network


def outputs(exported: Exported, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return exported.run(images)


def test_outputs_are_the_dense_ones_for_any_batch(name: str) -> None:
    for model in SMALL:
        export_format, network = format_and_network(name, model)
        exported = export_format.build(network, batch_size=1)
        dense = Exported(run=network.network.to(export_format.device, export_format.dtype), kernels={})
        for batch_size in (1, 5):
            images = network.random_images(batch_size, seed=7)
            expected = outputs(dense, images.to(export_format.device, export_format.dtype))
            assert relative_difference(outputs(exported, images), expected) <= export_format.tolerance, model
            assert float(expected.std()) > 0.01, "equality would say nothing"
        assert list(exported.kernels) == list(network.layers), model


def test_a_file_has_the_same_content_at_every_export(name: str) -> None:
    export_format, network = format_and_network(name, "convnet")
    assert export_format.encode(network) == export_format.encode(network)


def test_what_a_format_refuses_it_neither_builds_nor_writes(name: str) -> None:
    export_format: Format = build(FAMILY, name)
    for network in (finished("mlp"), finished("mlp", random_mask(0.5))):
        refusal = export_format.fit(network).refusal
        if refusal:
            with pytest.raises(ValueError) as built:  # noqa: PT011 - the message is compared below
                export_format.build(network, batch_size=1)
            assert str(built.value) == refusal


def test_every_layer_that_stays_dense_has_a_reason(name: str) -> None:
    export_format, network = format_and_network(name, "mlp")
    fit = export_format.fit(network)
    assert set(fit.dense) <= set(network.layers)
    assert all(fit.dense.values())
