"""Influence vectors against networks retrained without a node, and all solvers against each other."""

from dataclasses import replace

import pytest
import torch
from small_graphs import PenalizedNetwork, fitted_logistic_regression, hessian, minimize_by_adam, untrained
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.workloads.nodes.curvature import CurvatureError, conjugate_gradients, solve_dense
from pruneyard.workloads.nodes.flat import gradients_of_each, hessian_products
from pruneyard.workloads.nodes.gauss_newton import curvature_in_logits, gauss_newton_products
from pruneyard.workloads.nodes.jackknife import Jackknife
from pruneyard.workloads.nodes.models.gcn import GCN
from pruneyard.workloads.nodes.objectives.focal import NodeFocal
from pruneyard.workloads.nodes.objectives.weighted import Weighted

UNDAMPED = Jackknife(damping=1e-12)
L2 = 0.05


def shifts(jackknife: Jackknife, network: PenalizedNetwork) -> Tensor:
    return jackknife.shifts(network.logits, network.contributions, network.vector, l2=network.l2)


def random_system(size: int = 12, rows: int = 5, *, lowest: float = 0.1) -> tuple[Tensor, Tensor]:
    """Returns a symmetric matrix with eigenvalues from `lowest` up, and right-hand sides."""
    draws = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(size, size, generator=draws, dtype=torch.float64)).Q
    values = torch.linspace(lowest, 3.0, size, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T, torch.randn(rows, size, generator=draws, dtype=torch.float64)


def test_shifts_are_the_derivative_of_the_minimum_by_a_nodes_weight() -> None:
    """Exact where the loss is convex: a small part of a node's weight taken away moves the minimum by that part of its shift."""
    network, part = fitted_logistic_regression(Weighted(ratio=3), l2=L2), 1e-4
    computed = shifts(UNDAMPED, network)
    for k in (0, 3, 29):
        moved = (network.without(k, weight=1 - part) - network.vector) / part
        assert float((computed[k] - moved).norm() / moved.norm()) < 10 * part


def test_a_logistic_regression_refitted_without_a_node_is_where_its_shift_predicts() -> None:
    network = fitted_logistic_regression(Weighted(ratio=3), num_train=50, l2=0.3)
    true = torch.stack([network.without(k) - network.vector for k in range(0, 50, 7)])
    computed = shifts(UNDAMPED, network)[::7]
    assert float((computed - true).norm() / true.norm()) < 0.05


@each_case("curvature", ["hessian", "gauss_newton"])
@each_case("damping", [1e-12, 1e-2])
def test_leave_one_out_probabilities_of_a_logistic_regression_are_predicted(
    curvature: str, damping: float
) -> None:
    """Retrained networks correlate beyond 0.99 with the prediction for all nodes, also with the damping of the released code."""
    network = fitted_logistic_regression(Weighted(ratio=3), l2=L2)
    true = torch.stack([network.without(k) for k in range(10)])
    computed = network.vector + shifts(Jackknife(curvature=curvature, damping=damping), network)[:10]  # type: ignore[arg-type]
    changes = [
        (network.flat.logits_of_each(v, torch.arange(80)) - network.flat.logits(network.vector)).softmax(2)[..., 1].reshape(-1)
        for v in (computed, true)
    ]
    assert float(torch.corrcoef(torch.stack(changes))[0, 1]) > 0.99


@pytest.mark.slow
def test_leave_one_out_probabilities_of_a_gcn_are_roughly_predicted() -> None:
    """Two layers and ReLU: no longer exact. Measured: correlations of 0.80 to 0.86 with networks trained on from there."""
    start = untrained(GCN(width=4, dropout=0), Weighted(ratio=3), l2=0.01)
    network = replace(start, vector=minimize_by_adam(start.loss, start.vector, steps=800))
    before = network.flat.logits(network.vector).softmax(1)[:, 1]
    changes: list[list[Tensor]] = [[], []]
    for k in range(6):
        kept = (torch.arange(30) != k).double()

        def lost(v: Tensor, kept: Tensor = kept) -> Tensor:
            return (kept * network.contributions(network.logits(v))).sum() + network.l2 / 2 * (v**2).sum()

        estimated = network.vector + shifts(Jackknife(), network)[k]
        retrained = minimize_by_adam(lost, network.vector, steps=400)
        for place, v in enumerate((estimated, retrained)):
            changes[place].append(network.flat.logits(v).softmax(1)[:, 1] - before)
    both = torch.stack([torch.cat(change) for change in changes])
    assert float(torch.corrcoef(both)[0, 1]) > 0.6


def test_hessian_products_are_those_of_the_whole_hessian() -> None:
    network = untrained(GCN(width=3, dropout=0), Weighted())
    full = hessian(network.loss, network.vector)
    directions = torch.randn(7, len(network.vector), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(hessian_products(network.loss, network.vector, directions), directions @ full, atol=1e-12)


def test_gradients_of_each_node_are_those_taken_one_by_one() -> None:
    network = untrained(GCN(width=3, dropout=0), Weighted())
    computed = gradients_of_each(lambda v: network.contributions(network.logits(v)), network.vector)
    for k in (0, 11):
        one = torch.func.grad(lambda v, k=k: network.contributions(network.logits(v))[k])(network.vector)
        assert torch.allclose(computed[k], one, atol=1e-14)


def test_gauss_newton_products_are_those_of_the_built_matrix() -> None:
    network = untrained(GCN(width=3, dropout=0), Weighted())
    jacobian = torch.func.jacrev(network.logits)(network.vector)
    blocks = curvature_in_logits(network.contributions, network.logits(network.vector))
    full = torch.einsum("ncp,ncd,ndq->pq", jacobian, blocks, jacobian)
    directions = torch.randn(7, len(network.vector), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    computed = gauss_newton_products(network.logits, network.contributions, network.vector, directions)
    assert torch.allclose(computed, directions @ full, atol=1e-12)


def test_gauss_newton_is_the_hessian_where_logits_are_linear_in_parameters() -> None:
    network = fitted_logistic_regression(Weighted(ratio=3))
    one, other = (shifts(Jackknife(curvature=name), network) for name in ("gauss_newton", "hessian"))
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_the_curvature_of_a_loss_that_is_not_convex_is_cut_to_its_positive_part() -> None:
    """The focal loss bends down where a node is badly wrong."""
    labels = torch.tensor([1, 1])
    logits = torch.tensor([[6.0, 0.0], [0.0, 1.0]], dtype=torch.float64)

    def contributions(z: Tensor) -> Tensor:
        return NodeFocal(gamma=2).contributions(z, labels)

    full = hessian(lambda z: contributions(z).sum(), logits)
    assert float(torch.linalg.eigvalsh(full[0, :, 0]).min()) < -1e-4
    cut = curvature_in_logits(contributions, logits)
    assert float(torch.linalg.eigvalsh(cut).min()) > -1e-15
    assert torch.allclose(cut[1], full[1, :, 1])


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_conjugate_gradients_give_what_the_matrix_gives(curvature: str) -> None:
    start = untrained(GCN(width=3, dropout=0), Weighted())
    network = replace(start, vector=minimize_by_adam(start.loss, start.vector, steps=150))
    dense = Jackknife(curvature=curvature, damping=0.05, max_dense=10_000)  # type: ignore[arg-type]
    iterated = replace(dense, max_dense=0, tolerance=1e-10)
    assert torch.allclose(shifts(dense, network), shifts(iterated, network), rtol=1e-6, atol=1e-10)


def test_both_solvers_solve_a_system_of_known_solution() -> None:
    matrix, solution = random_system()
    right = solution @ matrix
    right[2] = 0
    solution[2] = 0
    iterated = conjugate_gradients(lambda rows: rows @ matrix, right, tolerance=1e-12, max_iterations=100)
    assert torch.allclose(solve_dense(lambda rows: rows @ matrix, right), solution, atol=1e-10)
    assert torch.allclose(iterated, solution, atol=1e-9)


def test_conjugate_gradients_converge_after_as_many_iterations_as_variables() -> None:
    matrix, right = random_system(size=6)
    calls: list[int] = []
    conjugate_gradients(
        lambda rows: rows @ matrix, right, tolerance=1e-9, max_iterations=50, between=lambda: calls.append(1)
    )
    assert len(calls) <= 6


def test_a_matrix_that_is_not_positive_definite_is_refused_by_both() -> None:
    matrix, right = random_system(lowest=-0.5)
    for solve in (
        lambda: solve_dense(lambda rows: rows @ matrix, right),
        lambda: conjugate_gradients(lambda rows: rows @ matrix, right, tolerance=1e-9, max_iterations=99),
    ):
        with pytest.raises(
            CurvatureError, match=r"negative curvature that jackknife\.damping does not outweigh"
        ):
            solve()


def test_too_few_iterations_are_an_error_that_says_how_far_it_came() -> None:
    matrix, right = random_system()
    with pytest.raises(
        CurvatureError, match=r"after 2 iterations a residual is \d\.\de-\d\d of its right-hand side"
    ):
        conjugate_gradients(lambda rows: rows @ matrix, right, tolerance=1e-9, max_iterations=2)
