"""Averaged members and the parts of their uncertainty; dropout passes that do not change the network."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.cases import each_case
from pruneyard.workloads.calibrate.mc_dropout import mc_dropout_logits
from pruneyard.workloads.calibrate.members import pooled, pooled_logits
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp

SHAPE = (1, 8, 8)


def images_of(rows: int = 12) -> Tensor:
    return torch.rand(rows, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_two_members_that_contradict_each_other() -> None:
    """Certain of different classes: all uncertainty is between them. Both undecided: none of it is."""
    found = pooled([[[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]], [[0.0, 1.0], [0.5, 0.5], [0.7, 0.3]]])

    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    inner = (entropy(0.9) + entropy(0.7)) / 2
    assert found.mean.tolist() == pytest.approx(np.array([[0.5, 0.5], [0.5, 0.5], [0.8, 0.2]]))
    assert found.total.tolist() == pytest.approx([math.log(2), math.log(2), entropy(0.8)])
    assert found.aleatoric.tolist() == pytest.approx([0.0, math.log(2), inner])
    assert found.epistemic.tolist() == pytest.approx([math.log(2), 0.0, entropy(0.8) - inner])


def test_parts_add_up_and_are_within_their_bounds() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (7, 50, 6))
    found = pooled_logits(logits)
    np.testing.assert_allclose(found.aleatoric + found.epistemic, found.total, rtol=1e-12)
    assert (found.epistemic > 0).all()
    assert (found.total <= math.log(6)).all()
    alone = pooled_logits(logits[:1])
    np.testing.assert_allclose(alone.epistemic, 0, atol=1e-15)


@each_case("given", [np.zeros((0, 3, 2)), np.full((3, 2), 0.5), np.full((2, 3, 2), np.nan)])
def test_what_is_no_distribution_is_refused(given: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"probabilities have shape|must be finite"):
        pooled(given)


def dropping(norm: str = "batch") -> nn.Module:
    network = ConvNet(depth=2, width=8, norm=norm, dropout=0.3)  # type: ignore[arg-type]
    return network.build(image_shape=SHAPE, num_classes=5)


def test_only_dropout_layers_draw_and_the_network_is_left_as_it_was() -> None:
    network = dropping()
    network(images_of())  # running statistics that are not those of initialisation
    network.eval()
    network[0].train()  # type: ignore[index]  # one block, for a mode of its own
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    state = torch.get_rng_state()
    found = mc_dropout_logits(network, [images_of()], 4, seed=3)
    assert found.shape == (4, 12, 5)
    assert not torch.equal(found[0], found[1])
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_do_not_depend_on_the_others_in_their_batch() -> None:
    """With batch norm in training mode rows would affect each other; here the first row has equal logits next to any rows."""
    network, images = dropping(), images_of()
    other = torch.cat([images[:1], images[:1].expand(11, -1, -1, -1)])
    first, second = (mc_dropout_logits(network, [batch], 3, seed=3)[:, 0] for batch in (images, other))
    assert torch.allclose(first, second, atol=1e-6)


def test_passes_are_of_streams_of_the_seed() -> None:
    network, batches = dropping(), [images_of()[:6], images_of()[6:]]
    few, many = (mc_dropout_logits(network, batches, passes, seed=3) for passes in (2, 5))
    assert torch.equal(few, many[:2])
    assert not torch.equal(few, mc_dropout_logits(network, batches, 2, seed=4))


def test_the_mean_over_passes_approaches_the_expectation_of_a_linear_network() -> None:
    """Logits of a layer behind dropout are unbiased: within five standard errors of those without it."""
    network = Mlp(width=16, depth=1, dropout=0.5).build(image_shape=SHAPE, num_classes=3)
    found = mc_dropout_logits(network, [images_of(4)], 400, seed=0)
    with torch.no_grad():
        expected = network.eval()(images_of(4))
    error = found.std(dim=0) / 20
    assert ((found.mean(dim=0) - expected).abs() < 5 * error).all()
    assert (error > 0).all()


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="no dropout"):
        mc_dropout_logits(Mlp(width=4).build(image_shape=SHAPE, num_classes=3), [images_of()], 3, seed=0)
    with pytest.raises(ValueError, match=r"^passes is 0"):
        mc_dropout_logits(dropping(), [images_of()], 0, seed=0)
    with pytest.raises(ValueError, match="no images"):
        mc_dropout_logits(dropping(), [], 3, seed=0)
