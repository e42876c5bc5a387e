"""Networks that are widened until their sparse form costs what the dense network costs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.models.resnet20 import ResNet20
from pruneyard.workloads.models.vit_tiny import ViTTiny
from pruneyard.workloads.networks.finished import Blueprint
from pruneyard.workloads.networks.flops import forward_flops, macs_of
from pruneyard.workloads.sparse.iso_flop import sparse_flops, widened
from pruneyard.workloads.sparse.job import SparseJob
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.snip import SNIP
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.training.recipe import Budget
from pruneyard.workloads.workload import Context

MODELS = (
    (Mlp(width=64), (784,)),
    (Mlp(width=100, depth=1), (30,)),
    (ConvNet(width=16), (3, 32, 32)),
    (ConvNet(width=16, norm="group"), (3, 32, 32)),
    (ViTTiny(width=30, depth=2), (3, 32, 32)),
)


def flops(model: Any, method: Any, shape: tuple[int, ...]) -> float:
    return sparse_flops(model, method, image_shape=shape, num_outputs=10)


def test_one_hidden_layer_by_hand() -> None:
    """30 inputs, 2 outputs: each unit has 32 weights, so at density 0.25 four times as many units cost the same."""
    wide: Any = widened(Mlp(width=100, depth=1), Static(density=0.25), image_shape=(30,), num_outputs=2)
    assert wide == Mlp(width=400, depth=1)


@pytest.mark.parametrize(("model", "shape"), MODELS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("density", [0.5, 0.1])
def test_flops_are_those_of_the_dense_model_up_to_one_width(model: Any, shape: tuple[int, ...], density: float) -> None:
    """No neighbouring width, above or below, comes nearer."""
    method = RigL(density=density)
    wide: Any = widened(model, method, image_shape=shape, num_outputs=10)
    dense = forward_flops(macs_of(model, shape, 10), {})
    step = {"ConvNet": 4 if getattr(model, "norm", "") == "group" else 1, "ViTTiny": 3}.get(type(model).__name__, 1)
    off = abs(flops(wide, method, shape) - dense)
    assert wide.width > model.width
    for neighbour in (wide.width - step, wide.width + step):
        assert off <= abs(flops(dataclasses.replace(wide, width=neighbour), method, shape) - dense)
    assert off / dense < 1.5 * step / wide.width


@pytest.mark.parametrize(("model", "shape"), MODELS, ids=lambda value: type(value).__name__)
def test_at_density_one_the_model_is_itself(model: Any, shape: tuple[int, ...]) -> None:
    assert widened(model, Static(density=1.0), image_shape=shape, num_outputs=10) == model


def test_counted_flops_are_those_of_the_masks_that_a_training_starts_with() -> None:
    method, model = Static(density=0.2, keep_dense=("classifier",)), ConvNet(width=12)
    network = model.build(image_shape=(3, 32, 32), num_classes=10)
    masks = method.start(prunable_weights(network), generator=torch.Generator().manual_seed(0)).masks
    expected = forward_flops(macs_of(model, (3, 32, 32), 10), masks)
    assert flops(model, method, (3, 32, 32)) == pytest.approx(expected, rel=1e-12)


def test_a_model_without_width_and_a_method_without_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="model resnet20 has no width"):
        widened(ResNet20(), Static(density=0.1), image_shape=(3, 32, 32), num_outputs=10)
    job = SparseJob(data=Digits(), model=ResNet20(), method=SNIP(density=0.1), budget=Budget(epochs=1), widen=True)
    with pytest.raises(ValueError, match="widen is true"):
        job.check(Digits().load())


def test_a_job_trains_the_wide_network_for_the_work_of_the_dense_one(tmp_path: Path) -> None:
    """Its artifact rebuilds the wide network from an ordinary model table."""
    data, budget = Digits(max_train=200).load(), Budget(steps=4, batch_size=32, evaluate_every=0)
    outcomes = {}
    for name, method, widen in (("dense", Static(density=1.0), False), ("wide", Static(density=0.1), True)):
        job = SparseJob(data=Digits(), model=Mlp(width=32), method=method, budget=budget, widen=widen)
        job.check(data)
        *_, last = job.run(Context(checkpoints=CheckpointFolder(tmp_path / name), load_data=lambda _: data))
        outcomes[name] = last.outcome
    dense, wide = outcomes["dense"], outcomes["wide"]
    assert dense is not None
    assert wide is not None
    assert wide.num_parameters > 5 * dense.num_parameters
    assert wide.train_flops == pytest.approx(dense.train_flops, rel=0.02)
    assert wide.blueprint is not None
    network = Blueprint.of_table(wide.blueprint).empty_network()
    assert {n: w.shape for n, w in network.state_dict().items()} == {n: w.shape for n, w in wide.weights.items()}
