"""FRePo: the regression, the learned labels, the steps of Adam and LAMB, and the ages in its pool."""

import numpy as np
import pytest
import torch
from distilling import context, generator, states
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from pruneyard.testing.cases import each_case
from pruneyard.workloads.distill.adaptive_steps import Moments, adam_step, lamb_step
from pruneyard.workloads.distill.kernel_ridge import half_squared_error, predictions
from pruneyard.workloads.distill.methods.frepo import (
    FRePo,
    initial_labels,
    label_error,
    probabilities,
    regression_targets,
)
from pruneyard.workloads.distill.network_pool import NetworkPool
from pruneyard.workloads.networks.features import features


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@each_case("ridge", [1e-6, 0.1, 10.0])
def test_predictions_are_those_of_scikit_learn(ridge: float) -> None:
    query, support, targets = normal(7, 20), normal(5, 20, seed=1), normal(5, 3, seed=2)
    alpha = ridge * float(support.square().sum()) / 5  # the kernel's diagonal holds squared lengths
    fitted = KernelRidge(alpha=alpha, kernel="linear").fit(support.numpy(), targets.numpy())
    ours = predictions(query, support, targets, ridge=ridge).numpy()
    np.testing.assert_allclose(ours, fitted.predict(query.numpy()), rtol=1e-8)


def test_a_vanishing_ridge_gives_the_support_its_own_targets_in_any_order() -> None:
    support, targets, order = normal(6, 30), normal(6, 4, seed=1), torch.tensor([3, 0, 5, 1, 2, 4])
    assert torch.allclose(predictions(support, support, targets, ridge=1e-12), targets, atol=1e-9)
    turned = predictions(normal(2, 30, seed=2), support[order], targets[order], ridge=0.1)
    assert torch.allclose(turned, predictions(normal(2, 30, seed=2), support, targets, ridge=0.1))


def test_the_loss_worked_by_hand() -> None:
    """With kernel I and ridge 1 the prediction for (1, 0) is (1/4, -1/4): off by 1/4 twice. The labels lead by 1 > 1/2."""
    support = torch.eye(2, dtype=torch.float64)
    labels = torch.tensor([[0.5, -0.5], [-0.5, 0.5]], dtype=torch.float64)
    query, wanted = support[:1], labels[:1]
    assert float(label_error(query, support, labels, wanted, ridge=1.0)) == pytest.approx(0.125 / 2 - 0.5)
    assert float(label_error(query, support, labels / 10, wanted / 10, ridge=1.0)) == pytest.approx(0.00125 / 2 - 0.1)


def test_the_gradient_by_images_features_and_labels_is_that_of_finite_differences() -> None:
    query, wanted = normal(6, 8), normal(6, 3, seed=1)
    given = normal(4, 8, seed=2).requires_grad_(), (normal(4, 3, seed=3) / 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, y: label_error(query, s, y, wanted, ridge=1e-2), given)


def test_an_iteration_moves_images_and_labels_by_the_gradient_of_the_loss_alone() -> None:
    """In float64 against the same formula written out; the training of the member has no part in the gradient."""
    pool = NetworkPool(members=1)
    method, at = FRePo(ipc=2, iterations=1, real_batch=30, lr=0.1, flip=False, network_pool=pool), context(double=True)
    before, after = states(method, at)
    draws = at.stream("iterate", 0)
    torch.randint(1, (), generator=draws)
    rows = torch.randperm(len(at.real.split), generator=draws)[:30]
    leaves = [before.tensors[name].clone().requires_grad_() for name in ("images", "labels")]
    network = at.network("pool/0")
    wanted = regression_targets(at.real.split.labels[rows], 10)
    loss = label_error(
        features(network, at.real.images(rows)), features(network, leaves[0]), leaves[1], wanted, ridge=1e-6
    )
    assert after.numbers["regression_loss"] == pytest.approx(float(loss.detach()), rel=1e-12)
    for name, leaf, gradient in zip(("images", "labels"), leaves, torch.autograd.grad(loss, leaves), strict=True):
        value = leaf.detach()
        moved, _ = lamb_step(value, gradient, Moments.zero(value), step=0, lr=0.1)
        assert torch.allclose(after.tensors[name], moved, atol=1e-6)


@each_case("num_classes", [4, 10, 100])
def test_labels_of_synthetic_images_are_scaled_by_the_number_of_classes_and_those_of_real_rows_are_not(num_classes: int) -> None:
    """By hand, on orthogonal features: predicted is the label of the own class, 1/sqrt(C/10) times the target.

    Squares of a target sum to 1 - 1/C. The labels lead by 1/sqrt(C/10), more than 1/C.
    """
    classes = torch.arange(num_classes)
    labels, targets = initial_labels(classes, num_classes), regression_targets(classes, num_classes)
    scale = (num_classes / 10) ** 0.5
    assert torch.allclose(labels * scale, targets)
    assert float(targets.square().sum(1).mean()) == pytest.approx(1 - 1 / num_classes, rel=1e-5)
    loss = label_error(torch.eye(num_classes), torch.eye(num_classes), labels, targets, ridge=1e-9)
    wanted = (1 - 1 / scale) ** 2 * (1 - 1 / num_classes) / 2 - 1 / num_classes
    assert float(loss) == pytest.approx(wanted, abs=1e-6)
    if num_classes == 100:
        assert float(loss) == pytest.approx(0.22147, abs=1e-4)
        # Targets that were scaled too would leave nothing but the margin.
        assert float(label_error(torch.eye(100), torch.eye(100), labels, labels, ridge=1e-9)) == pytest.approx(-0.01, abs=1e-4)


def test_mirrored_images_join_the_support_with_the_labels_of_their_originals() -> None:
    """Beside least squares on all features written out; a ridge as small as this one changes nothing."""
    at, pool = context(double=True), NetworkPool(members=1)
    losses = {}
    for flip in (True, False):
        method = FRePo(ipc=2, iterations=1, real_batch=30, flip=flip, ridge=1e-3, network_pool=pool)
        before, after = states(method, at)
        losses[flip] = after.numbers["regression_loss"]
    draws, network, images = at.stream("iterate", 0), at.network("pool/0"), before.tensors["images"]
    torch.randint(1, (), generator=draws)
    rows = torch.randperm(len(at.real.split), generator=draws)[:30]
    with torch.no_grad():
        query, support = (features(network, seen) for seen in (at.real.images(rows), torch.cat([images, images.flip(3)])))
    labels = torch.cat([before.tensors["labels"]] * 2).double()
    alpha = 1e-3 * float(support.square().sum()) / 40
    fitted = KernelRidge(alpha=alpha, kernel="linear").fit(support.numpy(), labels.numpy()).predict(query.numpy())
    off = fitted - regression_targets(at.real.split.labels[rows], 10).numpy()
    assert losses[True] == pytest.approx((off**2).sum(1).mean() / 2 - 0.1, rel=1e-6)
    assert losses[True] != losses[False]


def test_labels_that_are_not_learned_stay_and_are_hard() -> None:
    method, at = FRePo(ipc=1, iterations=2, learn_labels=False, network_pool=NetworkPool(members=1)), context()
    found = states(method, at)
    assert torch.equal(found[0].tensors["labels"], found[-1].tensors["labels"])
    assert len(method.synthetic_set(found[-1], at).soft_labels) == 0


def test_initial_labels_encode_their_classes() -> None:
    classes = torch.tensor([2, 0, 1])
    labels = initial_labels(classes, 3)
    assert torch.allclose(labels.sum(1), torch.zeros(3), atol=1e-6)
    assert torch.allclose(probabilities(labels), torch.eye(3)[classes], atol=1e-5)
    anything = probabilities(normal(20, 5))
    assert torch.allclose(anything.sum(1), torch.ones(20, dtype=torch.float64))
    assert (anything > 0).all()


def test_adam_takes_the_steps_of_torch() -> None:
    ours = normal(4)
    theirs = ours.clone().requires_grad_()
    optimizer, moments = torch.optim.Adam([theirs], lr=0.1, betas=(0.5, 0.9)), Moments.zero(ours)
    for step in range(5):
        theirs.grad = normal(4, seed=step + 1)
        optimizer.step()
        ours, moments = adam_step(ours, theirs.grad, moments, step=step, lr=0.1, betas=(0.5, 0.9))
    assert torch.allclose(ours, theirs.detach())


def test_the_first_step_of_lamb_worked_by_hand() -> None:
    """(3, 4) is 5 long; the first direction of Adam is the gradient's sign, here sqrt(2) long."""
    value = torch.tensor([3.0, 4.0], dtype=torch.float64)
    moved, _ = lamb_step(value, torch.tensor([7.0, -0.1]).double(), Moments.zero(value), step=0, lr=0.1)
    step = 0.1 * 5 / 2**0.5
    assert torch.allclose(moved, torch.tensor([3 - step, 4 + step]).double(), rtol=1e-4)
    still, _ = lamb_step(value, torch.zeros(2).double(), Moments.zero(value), step=0, lr=0.1)
    assert torch.equal(still, value)


def test_a_member_trains_as_with_torch_adam_and_is_replaced_after_its_last_update() -> None:
    pool, at = NetworkPool(members=2, max_online_updates=6, lr=0.01), context(double=True)
    images, targets = at.real.images(torch.arange(12)), regression_targets(at.real.split.labels[:12], 10).double()
    tensors, network = pool.start(at), at.network("pool/1")
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for iteration in range(6):
        tensors |= pool.advance(1, tensors, images, targets, at, iteration=iteration)
        now = parameters_to_vector(pool.network(1, tensors, at).parameters())
        if iteration == 5:
            network = at.network("pool/1", 6)
        else:
            optimizer.zero_grad()
            half_squared_error(network(images), targets).backward()
            optimizer.step()
        assert torch.allclose(now, parameters_to_vector(network.parameters()), atol=1e-6)
    assert int(tensors["pool/1/left"]) == 6
    assert int(tensors["pool/1/steps"]) == 0


def test_the_first_members_are_replaced_at_staggered_ages() -> None:
    tensors = NetworkPool(members=4, max_online_updates=10).start(context())
    assert [int(tensors[f"pool/{member}/left"]) for member in range(4)] == [3, 5, 8, 10]


def test_the_rate_falls_from_all_to_a_tenth() -> None:
    method = FRePo(ipc=1, iterations=100, lr=1.0)
    assert [method.rate(0), method.rate(50), method.rate(100)] == pytest.approx([1.0, 0.55, 0.1])
