"""The expected individual calibration error: by hand, as a metric of oracles, and as a term of the loss."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.workloads.nodes.eice import individual_errors, individual_errors_as_released
from pruneyard.workloads.nodes.jackknife import Intervals, Jackknife, quantile
from pruneyard.workloads.nodes.methods.calirare import Calirare
from pruneyard.workloads.nodes.methods.calirare_released import CalirareReleased
from pruneyard.workloads.nodes.node_method import TuningInputs


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def inputs(logits: Tensor) -> TuningInputs:
    """Returns inputs whose loss and intervals depend on the logits."""
    p = logits.softmax(dim=1)[:, 1]
    return TuningInputs(
        loss=(logits**2).mean(),
        logits=logits,
        intervals=lambda: Intervals(lower=p * 0.5 - 0.2, upper=p * 0.9 + 0.3),
    )


def gradients(method: Calirare | CalirareReleased) -> tuple[Tensor, Tensor]:
    """Returns the gradient of a step's loss, and of the objective in it."""
    given = torch.tensor([[0.3, 1.0], [1.5, -0.5], [0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    total, _ = method.tuning_loss(inputs(given))
    (found,) = torch.autograd.grad(total, given)
    (plain,) = torch.autograd.grad((given**2).mean(), given)
    return found, plain


def test_errors_by_hand() -> None:
    """Cut to [0, 1], the middles are 0.5 and 0.2; the second node is predicted 0, whose middle is 0.8."""
    intervals = Intervals(lower=numbers(-0.3, 0.1), upper=numbers(1.4, 0.3))
    p = numbers(0.9, 0.1)
    assert individual_errors(p, intervals).tolist() == pytest.approx([0.4, 0.1])
    assert individual_errors_as_released(p, intervals).tolist() == pytest.approx([0.35, 0.7])


def test_an_oracle_whose_intervals_are_the_truth_has_no_error() -> None:
    p = torch.linspace(0, 1, 21, dtype=torch.float64)
    assert float(individual_errors(p, Intervals(lower=p, upper=p)).max()) < 1e-15
    assert float(individual_errors_as_released(p, Intervals(lower=p, upper=p)).max()) == pytest.approx(1.0)


def test_naming_the_classes_the_other_way_round_changes_no_error() -> None:
    draws = torch.Generator().manual_seed(0)
    p, low, high = torch.rand(3, 50, generator=draws, dtype=torch.float64)
    one = individual_errors(p, Intervals(lower=low - 0.5, upper=high + 0.5))
    other = individual_errors(1 - p, Intervals(lower=0.5 - high, upper=1.5 - low))
    assert torch.allclose(one, other, atol=1e-14)


def test_quantiles_are_those_of_numpy() -> None:
    values = torch.randn(13, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for share in (0.0, 0.05, 0.4, 0.95, 1.0):
        assert np.allclose(quantile(values, share), np.quantile(values.numpy(), share, axis=0), atol=1e-14)
    assert torch.equal(quantile(values[:1], 0.3), values[0])


def test_intervals_by_hand() -> None:
    """Residuals are 0.25 and 0.5; at coverage 0.5, quantiles 0.25 and 0.75 of two numbers."""
    without = torch.tensor([[0.75, 0.2], [0.3, 0.4]], dtype=torch.float64)
    own, labels = numbers(0.75, 0.5), torch.tensor([1, 0])
    found = Jackknife(coverage=0.5).intervals(without, own=own, labels=labels)
    lowest, highest = [[0.5, -0.05], [-0.2, -0.1]], [[1.0, 0.45], [0.8, 0.9]]
    assert found.lower.tolist() == pytest.approx(np.quantile(lowest, 0.25, axis=0).tolist())
    assert found.upper.tolist() == pytest.approx(np.quantile(highest, 0.75, axis=0).tolist())


def test_the_default_term_has_a_gradient() -> None:
    found, plain = gradients(Calirare(weight=0.3))
    assert float((found - 0.7 * plain).abs().max()) > 0.01


def test_the_targets_are_stopped_by_default() -> None:
    """The gradient is that with the interval taken for a constant, checked by finite differences."""
    given = torch.tensor([[0.3, 1.0], [1.5, -0.5]], dtype=torch.float64, requires_grad=True)
    held = inputs(given.detach()).intervals()

    def total(logits: Tensor) -> Tensor:
        constant = TuningInputs(loss=(logits**2).mean(), logits=logits, intervals=lambda: held)
        return Calirare(weight=0.3).tuning_loss(constant)[0]

    assert torch.autograd.gradcheck(total, (given,))
    (as_asked,) = torch.autograd.grad(Calirare(weight=0.3).tuning_loss(inputs(given))[0], given)
    (by_constant,) = torch.autograd.grad(total(given), given)
    assert torch.equal(as_asked, by_constant)


def test_followed_targets_have_the_gradient_of_the_whole_term() -> None:
    method = Calirare(weight=0.3, target="followed")
    given = torch.tensor([[0.3, 1.0], [1.5, -0.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda logits: method.tuning_loss(inputs(logits))[0], (given,))
    stopped, _ = gradients(Calirare(weight=0.3))
    assert not torch.allclose(gradients(method)[0], stopped)


def test_the_released_term_has_no_gradient_at_all() -> None:
    found, plain = gradients(CalirareReleased(weight=0.3))
    assert torch.equal(found, 0.7 * plain)


def test_without_weight_the_objective_alone_is_minimised() -> None:
    found, plain = gradients(Calirare(weight=0.0))
    assert torch.equal(found, plain)


@each_case(
    ("make", "message"),
    [
        (lambda: Calirare(weight=1.1), r"weight is 1\.1"),
        (lambda: Calirare(steps=0), "steps is 0"),
        (lambda: CalirareReleased(weight=1.0), r"weight is 1\.0"),
        (lambda: Jackknife(coverage=1.0), r"coverage is 1\.0"),
        (lambda: Jackknife(damping=0.0), r"damping is 0\.0"),
        (lambda: Jackknife(tolerance=0.0), r"tolerance is 0\.0"),
        (lambda: Jackknife(max_iterations=0), "max_iterations is 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
