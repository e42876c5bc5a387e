"""Control variates against closed forms: linear regression in double precision, where all moments are known.

With x ~ N(0, I_p), y = x w* + e, e ~ N(0, s^2), and d = w - w*, the gradient of half the squared error of one row is
g = x (x d - e). Moments of normal variables give E[x x^T |x|^2] = (p + 2) I, hence tr Cov(g, gs) = (p + 1) d ds + p s^2.
Batches of n independent rows divide every covariance by n and leave ratios as they are.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.workloads.gradients._control_variate import ControlVariate
from pruneyard.workloads.gradients._covariances import GradientCovariance, LossCovariance
from pruneyard.workloads.gradients.agent import AGENT
from pruneyard.workloads.gradients.svrg import SVRG
from pruneyard.workloads.interfaces import RuleState, Tensors

DIM, NOISE = 5, 0.5


@dataclasses.dataclass
class Rows:
    """A batch of a regression, and the weights at which `differentiate` is called: `Probe` and `Batch` in one."""

    x: Tensor  # (n, p)
    y: Tensor  # (n,)
    standing: Tensor | None = None
    num_passes: int = 0

    def gradient_at(self, weights: Tensors) -> tuple[Tensor, Tensors]:
        self.num_passes += 1
        error = self.x @ weights["w"] - self.y
        return 0.5 * (error @ error) / len(error), {"w": self.x.T @ error / len(error)}

    def loss_at(self, weights: Tensors) -> Tensor:
        return self.gradient_at(weights)[0]

    def differentiate(self) -> Tensor:
        assert self.standing is not None
        return self.loss_at({"w": self.standing})

    def own_gradient(self) -> Tensors:
        assert self.standing is not None
        return self.gradient_at({"w": self.standing})[1]


@dataclasses.dataclass
class Look:
    """An epoch over batches in order."""

    rows: list[Rows]
    weights: Mapping[str, Tensor]
    number: int = 0
    masks: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def gradient_masks(self, num_epochs: int) -> Tensors:
        return self.masks

    def batches(self, fraction: float, masks: Tensors) -> Iterator[Rows]:
        assert masks.keys() == self.masks.keys()
        return iter(self.rows[: max(1, round(fraction * len(self.rows)))])


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def regression(num_batches: int, *, size: int = 1, seed: int = 0) -> list[Rows]:
    """Returns rows whose optimum is w* = 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_batches, size, DIM, generator=generator, dtype=torch.float64)
    y = NOISE * torch.randn(num_batches, size, generator=generator, dtype=torch.float64)
    return [Rows(x_nP, y_n) for x_nP, y_n in zip(x, y, strict=True)]


def state_at(rule: ControlVariate, rows: list[Rows], weights: Tensor) -> RuleState:
    """Returns a state with snapshot and anchor at these weights."""
    return rule.on_epoch_start(rule.start({"w": weights}), Look(rows, {"w": weights}))


def corrected(rule: ControlVariate, state: RuleState, rows: Rows, weights: Tensor) -> Tensor:
    gradient, after = rule.gradient(state, dataclasses.replace(rows, standing=weights))
    assert after is state
    return gradient.corrected["w"]


def total_variance(gradients: Tensor) -> float:
    """Returns the trace of the sample covariance of (B, p)."""
    return float(gradients.var(0, correction=1).sum())


NEW, OLD = double(0.6, -0.2, 0.4, 0.1, 0.3), double(1.0, -0.5, 0.2, 0.4, 0.1)


def seen(comparison: Any, rows: list[Rows], weights: Tensor) -> Any:
    for batch in rows:
        loss, gradient = batch.gradient_at({"w": weights})
        comparison.observe(batch, loss=loss, gradient=gradient)
    return comparison


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_gradient_coefficient_converges_to_the_closed_form(size: int) -> None:
    """40,000 batches: the ratio's relative standard error is below 1% (products of eighth moments, some hundreds / B)."""
    covariance = float((DIM + 1) * NEW @ OLD) + DIM * NOISE**2
    variance = float((DIM + 1) * OLD @ OLD) + DIM * NOISE**2
    found = seen(GradientCovariance({"w": OLD}, {}), regression(40_000, size=size), NEW)
    assert found.coefficient() == pytest.approx(covariance / variance, rel=0.04)
    traces = found.traces()
    assert traces[0] == pytest.approx(covariance / size, rel=0.06)
    assert traces[1] == pytest.approx(variance / size, rel=0.06)


@pytest.mark.slow
def test_the_loss_coefficient_converges_to_the_closed_form() -> None:
    """Half squares of two normal variables: Cov = r^2 / 2 with r their covariance, Var = v^2 / 2."""
    expected = (float(NEW @ OLD + NOISE**2) / float(OLD @ OLD + NOISE**2)) ** 2
    found = seen(LossCovariance({"w": OLD}), regression(40_000), NEW)
    assert found.coefficient() == pytest.approx(expected, rel=0.06)


def test_the_loss_coefficient_is_that_of_numpy() -> None:
    rows = regression(7, size=3)
    new = [float(batch.loss_at({"w": NEW})) for batch in rows]
    old = [float(batch.loss_at({"w": OLD})) for batch in rows]
    matrix = np.cov(new, old, ddof=1)
    found = seen(LossCovariance({"w": OLD}), rows, NEW).coefficient()
    assert found == pytest.approx(matrix[0, 1] / matrix[1, 1], rel=1e-12)
    assert 0 < found < 1


def test_total_variance_falls_by_one_minus_rho_squared_and_by_less_for_any_other_coefficient() -> None:
    """An identity of sample moments, so it holds to rounding."""
    rows = regression(500, size=2)
    comparison = seen(GradientCovariance({"w": OLD}, {}), rows, NEW)
    covariance, variance, own = comparison.traces()
    best = comparison.coefficient()
    rho_squared = covariance**2 / (variance * own)

    def left(coefficient: float) -> float:
        rule = SVRG(coefficient=coefficient)
        state = state_at(rule, rows, OLD)
        return total_variance(torch.stack([corrected(rule, state, batch, NEW) for batch in rows]))

    assert left(0.0) == pytest.approx(own, rel=1e-9)
    assert left(best) == pytest.approx(own * (1 - rho_squared), rel=1e-9)
    assert 0.3 < rho_squared < 0.99
    for other in (best - 0.2, best + 0.2, 0.0):
        assert left(other) > left(best)


@pytest.mark.parametrize("coefficient", ["loss", "gradient"])
def test_unmoved_weights_give_a_coefficient_of_exactly_one(coefficient: Any) -> None:
    rule = AGENT(coefficient=coefficient, smoothing=1.0)
    assert state_at(rule, regression(20, size=3), NEW).numbers == {"c_hat": 1.0}


def test_c_hat_is_smoothed_and_scaled() -> None:
    """Two looks by hand: first c* is 1 as nothing moved, then numpy's; a = 0.3, c = gamma c_hat."""
    rule, rows = AGENT(gamma=0.5, initial=0.2), regression(30, size=3)
    first = state_at(rule, rows, OLD)
    assert first.numbers["c_hat"] == pytest.approx(0.7 * 0.2 + 0.3)
    second = rule.on_epoch_start(first, Look(rows, {"w": NEW}, number=1))
    newest = seen(LossCovariance({"w": OLD}), rows, NEW).coefficient()
    assert second.numbers["c_hat"] == pytest.approx(0.7 * first.numbers["c_hat"] + 0.3 * newest)
    own, at_snapshot = (rows[4].gradient_at({"w": w})[1]["w"] for w in (OLD, NEW))
    mean = torch.stack([batch.gradient_at({"w": NEW})[1]["w"] for batch in rows]).mean(0)
    expected = own + 0.5 * second.numbers["c_hat"] * (mean - at_snapshot)
    assert torch.allclose(corrected(rule, second, rows[4], OLD), expected, rtol=1e-12)


def test_full_coefficient_without_momentum_is_textbook_svrg() -> None:
    """Johnson and Zhang's procedure with option I, written down as printed; equal to rounding of doubles."""
    rows, rate = regression(8, size=2), 0.05
    rule = SVRG()
    weights = OLD.clone()
    state = rule.start({"w": weights})
    expected = OLD.clone()
    for epoch in range(4):
        state = rule.on_epoch_start(state, Look(rows, {"w": weights}, number=epoch))
        tilde = expected.clone()
        mu = sum(batch.gradient_at({"w": tilde})[1]["w"] for batch in rows) / len(rows)
        for batch in rows:
            weights = weights - rate * corrected(rule, state, batch, weights)
            psi, psi_tilde = (batch.gradient_at({"w": w})[1]["w"] for w in (expected, tilde))
            expected = expected - rate * (psi - psi_tilde + mu)
        assert torch.allclose(weights, expected, rtol=1e-12, atol=1e-14)
    assert float(weights.norm()) < 0.9 * float(OLD.norm())


def test_at_the_snapshot_every_batch_gives_the_full_gradient() -> None:
    rule, rows = SVRG(), regression(16, size=2)
    state = state_at(rule, rows, NEW)
    gradients = torch.stack([corrected(rule, state, batch, NEW) for batch in rows])
    full = torch.stack([batch.gradient_at({"w": NEW})[1]["w"] for batch in rows]).mean(0)
    assert torch.allclose(gradients, full.expand_as(gradients), rtol=1e-12, atol=1e-14)


@each_case("rule", [AGENT(gamma=1.0), AGENT(coefficient="gradient"), SVRG(coefficient=0.3)])
def test_the_mean_over_all_batches_is_that_of_the_plain_gradients(rule: ControlVariate) -> None:
    rows = regression(50, size=2)
    state = state_at(rule, rows, OLD)
    mean = torch.stack([corrected(rule, state, batch, NEW) for batch in rows]).mean(0)
    plain = torch.stack([batch.gradient_at({"w": NEW})[1]["w"] for batch in rows]).mean(0)
    assert torch.allclose(mean, plain, rtol=1e-12, atol=1e-14)


def test_weights_outside_the_masks_of_the_anchor_are_not_corrected() -> None:
    rows, mask = regression(8, size=2), torch.tensor([True, False, True, True, False])
    rule = SVRG()
    state = rule.on_epoch_start(rule.start({"w": NEW * mask}), Look(rows, {"w": NEW * mask}, masks={"w": mask}))
    found, dense = corrected(rule, state, rows[3], OLD), corrected(rule, state_at(rule, rows, NEW * mask), rows[3], OLD)
    assert torch.equal(found[mask], dense[mask])
    assert torch.equal(found[~mask], rows[3].gradient_at({"w": OLD})[1]["w"][~mask])


@pytest.mark.parametrize("coefficient", ["loss", "gradient"])
def test_c_hat_stays_where_nothing_varies(coefficient: Any) -> None:
    rule = AGENT(coefficient=coefficient)
    same = regression(1, size=3) * 9
    assert state_at(rule, same, OLD).numbers == {"c_hat": rule.initial}
    assert state_at(rule, regression(1), OLD).numbers == {"c_hat": rule.initial}
    broken = [dataclasses.replace(batch, y=batch.y * math.nan) for batch in regression(5)]
    assert state_at(rule, broken, OLD).numbers == {"c_hat": rule.initial}


def test_the_coefficient_stays_between_none_and_all_of_the_correction() -> None:
    rows = regression(50)
    assert seen(GradientCovariance({"w": OLD}, {}), rows, 9 * OLD).coefficient() == 1
    assert seen(GradientCovariance({"w": OLD}, {}), rows, -9 * OLD).coefficient() == 0


def test_only_active_weights_enter_the_gradient_coefficient() -> None:
    rows, mask = regression(50), torch.tensor([True, False, True, True, False])
    narrow = [Rows(batch.x[:, mask], batch.y) for batch in rows]
    whole = seen(GradientCovariance({"w": OLD * mask}, {"w": mask}), rows, NEW * mask)
    alone = seen(GradientCovariance({"w": OLD[mask]}, {}), narrow, NEW[mask])
    assert whole.coefficient() == pytest.approx(alone.coefficient(), rel=1e-12)


def test_a_sampled_anchor_costs_its_share_and_is_off_by_its_sampling() -> None:
    """One look at a tenth of 1,000 batches: the anchor is a mean of 100, so its error is some tenth of one batch's."""
    rows = regression(1000)
    anchors = {}
    for fraction in (1.0, 0.1):
        rule = SVRG(anchor_fraction=fraction)
        before = sum(batch.num_passes for batch in rows)
        anchors[fraction] = state_at(rule, rows, OLD).tensors["anchor/w"]
        assert sum(batch.num_passes for batch in rows) - before == fraction * 1000
    spread = math.sqrt(
        total_variance(torch.stack([batch.gradient_at({"w": OLD})[1]["w"] for batch in rows])) * 0.9 / 100
    )
    assert 0.3 * spread < float((anchors[1.0] - anchors[0.1]).norm()) < 3 * spread


def test_between_refreshes_no_anchor_is_computed() -> None:
    rule, rows = AGENT(refresh_every=3), regression(5)
    state = state_at(rule, rows, OLD)
    assert rule.on_epoch_start(state, Look([], {"w": NEW}, number=1)) is state
    assert rule.on_epoch_start(state, Look([], {"w": NEW}, number=2)) is state
    refreshed = rule.on_epoch_start(state, Look(rows, {"w": NEW}, number=3))
    assert torch.equal(refreshed.tensors["snapshot/w"], NEW)


@each_case(
    ("rule", "field", "value"),
    [
        (AGENT, "gamma", 1.5),
        (AGENT, "initial", -0.1),
        (AGENT, "smoothing", 0.0),
        (AGENT, "coefficient", "cosine"),
        (AGENT, "anchor_fraction", 0.0),
        (SVRG, "coefficient", 2.0),
        (SVRG, "refresh_every", 0),
    ],
)
def test_values_out_of_range_are_refused_by_name(rule: Any, field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} is "):
        rule(**{field: value})
