"""Runs report how a method's mechanism acts: variance of gradients, spread of averaged weights, masked networks, "unknown"."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import loss_inputs
from pruneyard.testing.trainings import recipe_of, run
from pruneyard.workloads.gradients._control_variate import ControlVariate
from pruneyard.workloads.gradients._variance import RATIO, with_variance
from pruneyard.workloads.gradients.agent import AGENT
from pruneyard.workloads.gradients.svrg import SVRG
from pruneyard.workloads.metrics.detection import extra_probability
from pruneyard.workloads.metrics.max_logits import max_logit_spread
from pruneyard.workloads.objectives.unknown_aware import UnknownAware
from pruneyard.workloads.sparse.methods.dst_ee import DSTEE
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.weight_averaging import Averaging, WeightMean
from pruneyard.workloads.training.weight_dropout import WeightDropout
from pruneyard.workloads.workload import Progress


def last(progress: list[Progress]) -> dict[tuple[str, str], float]:
    return {(metric.split, metric.name): metric.value for part in progress for metric in part.metrics}


def tensors(*values: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(values)}


def test_the_variance_ratio_of_three_steps_by_hand() -> None:
    """The ratio is (1 + 1) / (4 + 16): the first entry of g differs by 2 and -4, that of the corrected gradients by 1 and -1."""
    masks = {"w": torch.tensor([True, False])}
    state: dict[str, Tensor] = {}
    for own, corrected in ((1.0, 2.0), (3.0, 3.0), (-1.0, 2.0)):
        state = with_variance(state, own=tensors(own, 9 * own), corrected=tensors(corrected, own), masks=masks)
    assert float(state[RATIO]) == pytest.approx(0.1)


@each_case(("rule", "low", "high"), [(SVRG(coefficient=0.0), 1, 1), (AGENT(), 0.8, 0.999), (AGENT(gamma=1.0), 0.0, 0.8)])
def test_a_correction_lowers_the_variance_and_measuring_changes_nothing(
    rule: ControlVariate, low: float, high: float, tmp_path: Path
) -> None:
    """As published, 0.1 times an estimate in [0, 1], at most 1 - 0.9 ** 2 of the variance goes."""
    measured, plain = (
        last(run(Static(density=0.5), tmp_path / f"{name} {high}", recipe_of(gradient=gradient)))
        for name, gradient in {"measured": replace(rule, measure_variance=True), "plain": rule}.items()
    )
    assert low <= measured.pop(("train", "gradient_variance_ratio")) <= high
    assert measured == plain


def test_the_spread_of_averaged_weights_by_hand() -> None:
    """Samples 1, 2 and 6: mean 3, squared distances 4, 1 and 9."""
    mean = WeightMean()
    assert mean.spread is None
    for value in (1.0, 2.0, 6.0):
        mean = mean.with_sample(tensors(value))
    assert mean.spread == pytest.approx(math.sqrt(14 / 3) / 3)


def test_averages_report_their_spread_and_random_masks_their_disagreement(tmp_path: Path) -> None:
    average, dropout = Averaging(begin=0.5, per_epoch=3), WeightDropout(drop=0.5)
    both = last(run(Static(density=0.5), tmp_path / "both", recipe_of(average=average, weight_dropout=dropout)))
    none = last(run(Static(density=0.5), tmp_path / "none"))
    assert both["train", "average_spread"] > 0
    assert 0 < both["val", "mask_disagreement"] < 1
    assert both.keys() - none.keys() == {("train", "average_spread"), ("val", "mask_disagreement")}


def test_a_mask_that_drops_almost_nothing_disagrees_almost_never(tmp_path: Path) -> None:
    shares = [
        last(run(Static(density=0.5), tmp_path / str(drop), recipe_of(weight_dropout=WeightDropout(drop=drop, scaled=True))))[
            "val", "mask_disagreement"
        ]
        for drop in (1e-6, 0.7)
    ]
    assert shares[0] == 0 < shares[1]


def test_the_probability_of_unknown_is_that_of_the_last_outputs() -> None:
    assert extra_probability([[0.0, 0.0], [0.0, 0.0]], num_extra=0) == {}
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]).log().numpy()
    assert extra_probability(logits, num_extra=1)["p_unknown"] == pytest.approx(0.4)


def test_the_gradient_share_of_unknown_is_that_of_automatic_differentiation() -> None:
    """The gradient with the weights constant and that of the weights alone add up to the whole; one wrong and one right row."""
    objective = UnknownAware(rate=1.0)
    logits = torch.tensor([[0.1, 0.2, 0.7], [2.0, 0.1, 0.3]], requires_grad=True)
    memory = {**objective.start(), "unknown_weight": torch.tensor(3.0)}
    inputs = loss_inputs(lambda _: logits, torch.zeros(2, 1, 1, 1), torch.tensor([0, 0]), memory=memory)
    loss, after = objective.loss(inputs)
    (whole,) = torch.autograd.grad(loss, logits)
    log_p = logits.log_softmax(1)
    u, h = log_p[:, -1].exp(), -log_p[:, 0]
    weight = torch.tensor([1.0 + 3 / (1 + 3 * u[0].item()), 1.0])
    (of_loss,) = torch.autograd.grad((h * weight).mean(), logits)
    of_weight = (whole - of_loss).norm(dim=1).sum()
    share = of_weight / (of_weight + of_loss.norm(dim=1).sum())
    assert float(after["unknown_gradient"]) == pytest.approx(share.item(), rel=1e-5)
    assert float(after["p_unknown"]) == pytest.approx(u.mean().item())


def test_without_a_weight_unknown_has_no_gradient() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    inputs = loss_inputs(
        lambda _: logits, torch.zeros(5, 1, 1, 1), torch.zeros(5, dtype=torch.long), memory=UnknownAware().start()
    )
    assert float(UnknownAware().loss(inputs)[1]["unknown_gradient"]) == 0


def test_dst_ee_reports_how_much_of_its_growth_the_bonus_decides(tmp_path: Path) -> None:
    often = UpdateSchedule(every=2, until=0.9)
    without, values = (
        last(run(DSTEE(density=0.2, schedule=often, exploration=c), tmp_path / str(c))) for c in (0.0, 1e3)
    )
    assert without["train", "bonus_share"] == 0 < values["train", "bonus_share"]
    assert values["train", "seen_grown"] < values["train", "seen_candidates"] < 1  # the bonus prefers what was never active
    assert ("train", "bonus_share") not in last(run(RigL(density=0.2, schedule=often), tmp_path / "rigl"))


def test_the_spread_of_the_largest_logits_by_hand_and_at_any_temperature() -> None:
    """Centred, the largest logits are 2 and 4: mean 3, deviation 1. The third column is no class."""
    logits = np.array([[3.0, -1.0, 50.0], [9.0, 1.0, -50.0]])
    assert max_logit_spread(logits, num_extra=1) == pytest.approx(1 / 3)
    assert max_logit_spread(7 * logits + 2, num_extra=1) == pytest.approx(1 / 3)
    assert math.isnan(max_logit_spread([[0.0, -math.inf], [0.0, -1.0]]))
