"""Weights of classes and the weighted sampler: what they compute, and that they help a rare class."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.testing.loss_evaluation import loss_inputs
from pruneyard.workloads.data.batches import weighted_epoch_order
from pruneyard.workloads.interfaces import Objective
from pruneyard.workloads.losses.mixing import sample_offset
from pruneyard.workloads.objectives.adaptive_focal import AdaptiveFocal
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.objectives.cutmix import CutMix
from pruneyard.workloads.objectives.dual_focal import DualFocal
from pruneyard.workloads.objectives.focal import Focal
from pruneyard.workloads.objectives.label_smoothing import LabelSmoothing
from pruneyard.workloads.objectives.mixup import Mixup
from pruneyard.workloads.objectives.pgd import PGD
from pruneyard.workloads.objectives.trades import TRADES

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.5, 1.5, 0.0], [0.0, 0.0, 3.0], [1.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 0, 0, 2])


WEIGHTS = (0.5, 9.0, 2.0)
AT_THE_LIMIT = [
    Focal(gamma=0.0, class_weight=WEIGHTS),
    DualFocal(gamma=0.0, class_weight=WEIGHTS),
    AdaptiveFocal(initial=0.0, rate=0.0, class_weight=WEIGHTS),
    LabelSmoothing(smoothing=0.0, class_weight=WEIGHTS),
    LabelSmoothing(smoothing=0.0, convention="other_classes", class_weight=WEIGHTS),
    Mixup(alpha=0.0, class_weight=WEIGHTS),
    CutMix(alpha=0.0, class_weight=WEIGHTS),
    PGD(num_steps=0, class_weight=WEIGHTS),
    TRADES(beta=0.0, class_weight=WEIGHTS),
]
"""Objectives with settings that make them cross-entropy."""


def loss_of(objective: Objective) -> float:
    """Returns the loss of black images with `LOGITS`, which attacks can change."""

    def network(images: torch.Tensor) -> torch.Tensor:
        return LOGITS + images.mean(dim=(1, 2, 3))[:, None] * torch.tensor([1.0, -1.0, 0.5])

    inputs = loss_inputs(network, torch.zeros(4, 1, 2, 2), LABELS, memory=objective.start())
    return float(objective.loss(inputs)[0])


def name_of_case(objective: Objective) -> str:
    return f"{type(objective).__name__}-{getattr(objective, 'convention', '')}"


def test_balanced_weights_are_those_of_scikit_learn_and_a_list_weighs_each_class() -> None:
    losses = functional.cross_entropy(LOGITS, LABELS, reduction="none")
    balanced = torch.tensor([4 / (2 * 3)] * 3 + [4 / (2 * 1)])  # class 1 has no rows and does not count
    assert loss_of(CrossEntropy(class_weight="balanced")) == pytest.approx(float((losses * balanced).mean()))
    assert loss_of(CrossEntropy(class_weight=(0.5, 9.0, 2.0))) == pytest.approx(float((losses[:3].sum() / 2 + 2 * losses[3]) / 4))
    assert loss_of(CrossEntropy(class_weight=(1.0, 1.0, 1.0))) == pytest.approx(loss_of(CrossEntropy()))


@pytest.mark.parametrize("objective", AT_THE_LIMIT, ids=name_of_case)
def test_weights_of_classes_are_those_of_cross_entropy_where_an_objective_becomes_it(objective: Any) -> None:
    assert loss_of(objective) == pytest.approx(loss_of(CrossEntropy(class_weight=WEIGHTS)), rel=1e-6)
    balanced = dataclasses.replace(objective, class_weight="balanced")
    assert loss_of(balanced) == pytest.approx(loss_of(CrossEntropy(class_weight="balanced")), rel=1e-6)


@pytest.mark.parametrize(
    "objective",
    [
        Focal(gamma=2.0),
        Focal(by_sample=True),
        DualFocal(gamma=3.0),
        AdaptiveFocal(initial=2.0),
        LabelSmoothing(smoothing=0.3),
        LabelSmoothing(smoothing=0.3, convention="other_classes"),
        Mixup(alpha=0.4),
        PGD(),
    ],
    ids=name_of_case,
)
def test_equal_weights_of_classes_change_nothing_and_doubled_ones_double_the_loss(objective: Any) -> None:
    plain = loss_of(objective)
    assert loss_of(dataclasses.replace(objective, class_weight=(1.0, 1.0, 1.0))) == pytest.approx(plain, rel=1e-6)
    assert loss_of(dataclasses.replace(objective, class_weight=(2.0, 2.0, 2.0))) == pytest.approx(2 * plain, rel=1e-6)


def test_weighted_focal_loss_and_label_smoothing_by_hand() -> None:
    """One row of each of two classes: p of the label is 3/4 and 1/5; classes weigh 2 and 10."""
    logits, labels = torch.tensor([[3.0, 1.0], [4.0, 1.0]]).log(), torch.tensor([0, 1])

    def weighted(objective: Objective) -> float:
        inputs = loss_inputs(lambda _: logits, torch.zeros(2, 1, 1, 1), labels, memory=objective.start())
        return float(objective.loss(inputs)[0])

    focal = (2 * (1 / 4) ** 2 * -math.log(3 / 4) + 10 * (4 / 5) ** 2 * -math.log(1 / 5)) / 2
    assert weighted(Focal(gamma=2.0, class_weight=(2.0, 10.0))) == pytest.approx(focal)
    assert weighted(AdaptiveFocal(initial=2.0, class_weight=(2.0, 10.0))) == pytest.approx(focal)
    # The label's probability is above the other's in the first row alone: 1 - 3/4 + 1/4; 1 - 1/5 + 0 in the second.
    dual = (2 * (1 / 2) ** 2 * -math.log(3 / 4) + 10 * (4 / 5) ** 2 * -math.log(1 / 5)) / 2
    assert weighted(DualFocal(gamma=2.0, class_weight=(2.0, 10.0))) == pytest.approx(dual)
    rows = [-0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4), -0.9 * math.log(1 / 5) - 0.1 * math.log(4 / 5)]
    smoothed = (2 * rows[0] + 10 * rows[1]) / 2
    assert weighted(LabelSmoothing(smoothing=0.2, class_weight=(2.0, 10.0))) == pytest.approx(smoothed)
    others = LabelSmoothing(smoothing=0.1, convention="other_classes", class_weight=(2.0, 10.0))
    assert weighted(others) == pytest.approx(smoothed)


def test_mixed_images_weigh_each_of_their_labels_by_its_class() -> None:
    objective = Mixup(alpha=0.4, class_weight=WEIGHTS)
    generator = torch.Generator().manual_seed(0)
    share = objective.sample_mixing_weight(generator)
    offset = sample_offset(4, generator)
    partners = [int(LABELS[(row - offset) % 4]) for row in range(4)]
    log_p = functional.log_softmax(LOGITS, dim=1)
    by_hand = -sum(
        share * WEIGHTS[int(LABELS[row])] * float(log_p[row, LABELS[row]])
        + (1 - share) * WEIGHTS[partners[row]] * float(log_p[row, partners[row]])
        for row in range(4)
    ) / 4
    assert loss_of(objective) == pytest.approx(by_hand)


@pytest.mark.parametrize("name", ["mdca", "mmce", "soft_ece", "cape", "unknown_aware"])
def test_objectives_that_weigh_rows_themselves_or_calibrate_refuse_weights_of_classes(name: str, tmp_path: Any) -> None:
    objective = {"name": name, "class_weight": "balanced"}
    with pytest.raises(SpecError, match=r"objective\.class_weight: does not go with this objective, wh.* use sampler: weighted"):
        load_spec(spec(tmp_path / "rare.npz", objective=objective))


def test_the_weighted_sampler_draws_each_class_equally_often_and_depends_on_seed_and_epoch() -> None:
    labels = torch.tensor([0] * 9000 + [2] * 1000)
    order = weighted_epoch_order(labels, 0, 0)
    assert order.shape == (10_000,)
    assert (labels[order] == 2).double().mean() == pytest.approx(0.5, abs=0.02)
    # Rows of one class are equally likely: 5,000 draws of 1,000 rows leave about exp(-5) of them out.
    assert len(order[labels[order] == 2].unique()) == pytest.approx(993, abs=12)
    assert torch.equal(order, weighted_epoch_order(labels, 0, 0))
    assert not torch.equal(order, weighted_epoch_order(labels, 0, 1))


def spec(path: Any, **fields: Any) -> dict[str, Any]:
    return {
        "name": "rare",
        "kind": "sparse",
        "data": {"name": "arrays", "path": str(path)},
        "model": {"name": "mlp", "depth": 0},
        "method": {"name": "dense"},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "budget": {"steps": 60, "batch_size": 64},
        "seeds": 1,
        **fields,
    }


def test_both_find_a_rare_class_that_plain_training_gives_up(tmp_path: Any) -> None:
    draws = np.random.default_rng(0)
    labels = (np.arange(1200) % 20 == 0).astype(np.int64)
    np.savez(tmp_path / "rare.npz", x=draws.normal(size=(1200, 2)) + labels[:, None], y=labels)
    balanced = {"objective": {"name": "cross_entropy", "class_weight": "balanced"}}
    variants = [{"sampler": "shuffle"}, balanced, {"sampler": "weighted"}]
    results = run(spec(tmp_path / "rare.npz", variants=variants), tmp_path / "out", local=True)
    metrics = results.metrics()
    metrics = metrics[(metrics["split"] == "test") & (metrics["name"] == "balanced_accuracy")]
    by_run = metrics.sort_values("step").groupby("run_key")["value"].last()
    plain, *others = sorted(by_run)
    assert len(others) == 2
    assert plain < 0.65
    assert min(others) > 0.7
    objective = {"name": "cross_entropy", "class_weight": [1.0, 2.0, 3.0]}
    with pytest.raises(SpecError, match=r"objective\.class_weight: has 3 weights; the data has 2 classes: 0, 1"):
        run(spec(tmp_path / "rare.npz", objective=objective), tmp_path / "other", local=True)


def test_wrong_weights_are_refused() -> None:
    for wrong in ((-1.0, 2.0), (0.0, 0.0), (float("inf"), 1.0)):
        for cls in (CrossEntropy, *map(type, AT_THE_LIMIT)):
            with pytest.raises(ValueError, match=r"class_weight is \[.*\]; it must be balanced, or one number"):
                cls(class_weight=wrong)
