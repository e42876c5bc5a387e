"""SynFlow: scores worked by hand, conservation of flow, and no layer that is emptied where other rankings empty one."""

import itertools
import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.masks.masks import active_per_layer, full_masks, hash_masks, prunable_weights
from pruneyard.workloads.sparse.methods.one_shot import OneShot
from pruneyard.workloads.sparse.methods.snip import SNIP
from pruneyard.workloads.sparse.methods.synflow import SynFlow, flow_scores
from pruneyard.workloads.training.backward import NetworkTensors
from pruneyard.workloads.training.functional_network import FunctionalModule
from pruneyard.workloads.training.mask_updater import MaskUpdater, UpdateContext


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain(*sizes: int, seed: int = 0) -> nn.Sequential:
    """Returns linear layers without biases, with ReLU between them, at torch's initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def with_batch_norm() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3),
            nn.Flatten(),
            nn.Linear(8, 5),
        )


def functional_network_of(network: nn.Module, num_inputs: int, counted: list[float] | None = None) -> FunctionalModule:
    """Returns a functional network for images of one row of pixels."""
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 1, num_inputs), dtype=np.uint8)
    split = Split(images=images, labels=np.arange(20) % 2, row_ids=np.arange(20))
    return FunctionalModule(
        network=network,
        network_tensors=NetworkTensors.of(network),
        split=DeviceSplit(split, mean=(0.5,), std=(0.3,)),
        count_flops=(counted if counted is not None else []).append,
        forward_flops_per_row=1.0,
    )


def pruned(method: MaskUpdater, network: nn.Module, num_inputs: int) -> dict[str, Tensor]:
    """Returns the masks after the update at step 0; methods that read gradients get those of a batch of noise."""
    weights = prunable_weights(network)
    images = torch.randn(20, 1, 1, num_inputs, generator=generator(1))
    loss = network(images).logsumexp(1).mean()
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    now = UpdateContext(
        step=0,
        num_steps=9,
        weights={name: weight.detach() for name, weight in weights.items()},
        gradients=gradients,
        generator=generator(),
        network=functional_network_of(network, num_inputs),
    )
    return method.update(method.start(now.weights, generator=generator()), now).masks


def flow(network: nn.Module, masks: dict[str, Tensor], num_inputs: int) -> float:
    """Returns the sum of the outputs for ones under masked absolute weights: 0 where no path connects input and output."""
    bench = functional_network_of(network, num_inputs)
    weights = {n: t.double().abs() * masks.get(n, torch.tensor(1.0)) for n, t in bench.weights.items()}
    ones = torch.ones((1, *bench.image_shape), dtype=torch.float64)
    return float(bench.logits(weights, ones, training=False).sum())


def test_scores_and_one_round_by_hand() -> None:
    # |W1| = [[1, 2], [3, 4]] gives 3 and 7 for ones, |W2| = [[5, 6]]: R = 5*3 + 6*7 = 57.
    # A weight's score is the flow of all paths through it: W1 5*1, 5*2, 6*3, 6*4; W2 5*3, 6*7.
    network = chain(2, 2, 1)
    for name, rows in {"1.weight": [[1.0, -2.0], [-3.0, 4.0]], "3.weight": [[5.0, -6.0]]}.items():
        network.get_parameter(name).data = torch.tensor(rows)
    counted: list[float] = []
    ones = full_masks(prunable_weights(network), ["1.weight", "3.weight"])
    scores = flow_scores(functional_network_of(network, 2, counted), ones)
    assert scores["1.weight"].tolist() == [[5.0, 10.0], [18.0, 24.0]]
    assert scores["3.weight"].tolist() == [[15.0, 42.0]]
    assert counted == [3.0]  # a forward and a backward pass of one row
    masks = pruned(SynFlow(density=0.5, rounds=1), network, 2)  # three of six: 42, 24, 18
    assert masks["1.weight"].tolist() == [[False, False], [True, True]]
    assert masks["3.weight"].tolist() == [[False, True]]


def test_every_layer_and_every_unit_passes_on_what_it_gets() -> None:
    network = chain(12, 40, 9, 25, 3)
    scores = flow_scores(functional_network_of(network, 12), full_masks(w := prunable_weights(network), w))
    of_layers = torch.stack([layer.sum() for layer in scores.values()])
    assert torch.allclose(of_layers, of_layers[0], rtol=1e-12)
    for before, after in itertools.pairwise(scores.values()):
        assert torch.allclose(before.sum(1), after.sum(0), rtol=1e-12)


def test_no_layer_is_emptied_where_magnitude_and_sensitivity_empty_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # 246 weights of 49,280 stay. A layer with one weight has it by the floor alone: the ranking would take all.
    caplog.set_level(logging.CRITICAL)
    sizes = (64, 256, 16, 256, 16, 256, 64, 2)
    network = chain(*sizes)
    fewest, flows = {}, {}
    for method in (OneShot(density=0.005, prune_at=0.0), SNIP(density=0.005), SynFlow(density=0.005)):
        masks, name = pruned(method, network, sizes[0]), type(method).__name__
        fewest[name], flows[name] = min(active_per_layer(masks).values()), flow(network, masks, sizes[0])
    assert fewest["OneShot"] == fewest["SNIP"] == 1
    assert fewest["SynFlow"] > 20
    assert flows["OneShot"] == 0  # nothing reaches the output
    assert flows["SynFlow"] > 1000 * flows["SNIP"]


def test_many_rounds_leave_more_flow_than_one() -> None:
    network = chain(32, 64, 64, 64, 8)
    flows = [flow(network, pruned(SynFlow(density=0.02, rounds=n), network, 32), 32) for n in (1, 10, 100)]
    assert flows == sorted(flows)
    assert flows[-1] > 2 * flows[0]


def test_neither_data_nor_running_statistics_nor_signs_are_used() -> None:
    network = with_batch_norm()
    weights, hashes = {n: w.detach().clone() for n, w in prunable_weights(network).items()}, set()
    for seed in range(3):
        images = torch.randn(16, 1, 5, 5, generator=generator(seed)) * 10**seed
        network(images)  # moves the running statistics
        for name, weight in weights.items():
            signs = torch.randn(weight.shape, generator=generator(seed)).sign()
            network.get_parameter(name).data = weight * signs
        split = Split(
            images=np.zeros((2, 1, 5, 5), dtype=np.uint8), labels=np.arange(2), row_ids=np.arange(2)
        )
        bench = FunctionalModule(
            network=network,
            network_tensors=NetworkTensors.of(network),
            split=DeviceSplit(split, mean=(0.5,), std=(0.3,)),
            count_flops=lambda flops: None,
            forward_flops_per_row=0.0,
        )
        before = {name: tensor.clone() for name, tensor in bench.weights.items()}
        now = UpdateContext(
            step=0,
            num_steps=9,
            weights={name: bench.weights[name] for name in weights},
            gradients={},
            generator=generator(seed),
            network=bench,
        )
        method = SynFlow(density=0.1)
        hashes.add(hash_masks(method.update(method.start(now.weights, generator=generator()), now).masks))
        assert all(torch.equal(tensor, bench.weights[name]) for name, tensor in before.items())
    assert len(hashes) == 1


def test_within_layers_each_gets_what_the_distribution_gives_it() -> None:
    network = chain(32, 64, 64, 8)
    method = SynFlow(density=0.1, scope="layer", distribution="uniform", rounds=7)
    masks = pruned(method, network, 32)
    assert active_per_layer(masks) == method.counts(prunable_weights(network))


@pytest.mark.parametrize(("field", "value"), [("rounds", 0), ("scope", "own")])
def test_a_field_out_of_range_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is"):
        SynFlow(density=0.1, **{field: value})  # type: ignore[arg-type]
