"""GraSP: its sign on a quadratic worked by hand, its scores against differences, and its effect on gradient flow."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.masks.masks import active_per_layer, hash_masks, prunable_weights
from pruneyard.workloads.sparse.methods.grasp import GraSP, removal_effects
from pruneyard.workloads.training.backward import NetworkTensors
from pruneyard.workloads.training.functional_network import FunctionalModule
from pruneyard.workloads.training.mask_updater import UpdateContext


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(*, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(16, 12),
            nn.BatchNorm1d(12),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(12, 3),
        )


def moment(net: nn.Module, *, counted: list[float] | None = None, seed: int = 0) -> UpdateContext:
    """Returns the context of step 0, over 40 images of three classes, of which the last has four."""
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
    split = Split(images=images, labels=np.repeat([0, 1, 2], [18, 18, 4]), row_ids=np.arange(40))
    bench = FunctionalModule(
        network=net,
        network_tensors=NetworkTensors.of(net),
        split=DeviceSplit(split, mean=(0.5,), std=(0.3,)),
        count_flops=(counted if counted is not None else []).append,
        forward_flops_per_row=1.0,
    )
    return UpdateContext(
        step=0,
        num_steps=9,
        weights={name: weight.detach() for name, weight in prunable_weights(net).items()},
        gradients={},
        generator=generator(seed),
        network=bench,
    )


def masks_of(method: GraSP, now: UpdateContext) -> dict[str, Tensor]:
    return method.update(method.start(now.weights, generator=generator()), now).masks


def test_the_sign_by_hand_on_a_quadratic() -> None:
    # L = 1/2 (w1^2 + 9 w2^2) + 2 w1 w2 at w = (3, 1): H = [[1, 2], [2, 9]], g = (5, 15), H g = (35, 145).
    # Scores -w (H g) = (-105, -145). |g|^2 = 250; without w1 it is 2^2 + 9^2 = 85, without w2 3^2 + 6^2 = 45:
    # removing w2 costs more of it, so w2, the lower score, is kept.
    w = torch.tensor([3.0, 1.0], requires_grad=True)
    loss = 0.5 * (w[0] ** 2 + 9 * w[1] ** 2) + 2 * w[0] * w[1]
    assert removal_effects(loss, {"w": w})["w"].tolist() == [-105.0, -145.0]


def test_scores_are_half_the_derivative_of_gradient_flow_along_removal() -> None:
    net, method = network(), GraSP(density=0.5, samples_per_class=4)
    now = moment(net)
    ones = method.start(now.weights, generator=generator()).masks
    scores = method.scores(ones, now)
    images, labels = now.network.rows(4, generator())

    def flow(name: str, index: int, removed: float) -> float:
        """Returns |g|^2 with one weight moved towards zero by a share of itself."""
        tensors = {n: t.double() if t.is_floating_point() else t for n, t in now.network.weights.items()}
        own = {n: tensors[n].clone() for n in ones}
        own[name].view(-1)[index] *= 1 - removed
        own = {n: w.requires_grad_() for n, w in own.items()}
        logits = now.network.logits({**tensors, **own}, images.double(), training=True)
        loss = nn.functional.cross_entropy(logits / 200, labels)
        return float(sum(g.square().sum() for g in torch.autograd.grad(loss, list(own.values()))))

    share = 1e-4
    for name, index in (("1.weight", 0), ("1.weight", 77), ("5.weight", 5), ("5.weight", 30)):
        slope = (flow(name, index, share) - flow(name, index, -share)) / (2 * share)
        # Central differences err by share^2 = 1e-8 of the third derivative, and by 1e-16 / 1e-4 of the flow.
        assert float(scores[name].view(-1)[index]) == pytest.approx(slope / 2, rel=1e-5)


def test_the_lowest_scores_stay_over_all_layers() -> None:
    net, method = network(), GraSP(density=0.2, samples_per_class=4)
    ones = method.start(moment(net).weights, generator=generator()).masks
    scores = method.scores(ones, moment(net))
    masks = masks_of(method, moment(net))
    inside = torch.cat([scores[name][mask] for name, mask in masks.items()])
    outside = torch.cat([scores[name][~mask] for name, mask in masks.items()])
    assert len(inside) == round(0.2 * (16 * 12 + 12 * 3))
    assert inside.max() < outside.min()


def test_what_it_counts_is_nine_forward_passes_of_a_balanced_batch() -> None:
    counted: list[float] = []
    masks_of(GraSP(density=0.5, samples_per_class=7), moment(network(), counted=counted))
    assert counted == [9.0 * (7 + 7 + 4)]  # the last class has four rows


def test_the_temperature_changes_which_weights_stay() -> None:
    hashes = {
        t: hash_masks(masks_of(GraSP(density=0.2, temperature=t), moment(network()))) for t in (0.1, 200.0)
    }
    assert hashes[0.1] != hashes[200.0]


def test_running_statistics_and_torchs_generator_are_neither_used_nor_changed() -> None:
    plain = network(dropout=0.5)
    moved = network(dropout=0.5)
    moved[2].running_mean += 3.0  # type: ignore[operator]
    moved[2].running_var *= 9.0  # type: ignore[operator]
    before, random = {n: t.clone() for n, t in moved.state_dict().items()}, torch.get_rng_state()
    found = [hash_masks(masks_of(GraSP(density=0.2), moment(net))) for net in (plain, moved)]
    assert found[0] == found[1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in moved.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert found[0] != hash_masks(
        masks_of(GraSP(density=0.2), moment(plain, seed=1))
    )  # other rows, other dropout


def test_within_layers_each_gets_what_the_distribution_gives_it() -> None:
    method = GraSP(density=0.2, scope="layer", distribution="uniform")
    now = moment(network())
    assert active_per_layer(masks_of(method, now)) == method.counts(now.weights)


@each_case(("field", "value"), [("samples_per_class", 0), ("temperature", 0.0), ("scope", "own")])
def test_a_field_out_of_range_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is"):
        GraSP(density=0.1, **{field: value})  # type: ignore[arg-type]
