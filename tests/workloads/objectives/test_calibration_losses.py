"""Calibration losses of single batches: by hand, at their limits, by brute force and by finite differences."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import loss_of_logits
from pruneyard.workloads.losses.logits import LogitsObjective
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.objectives.dual_focal import DualFocal
from pruneyard.workloads.objectives.focal import Focal
from pruneyard.workloads.objectives.label_smoothing import LabelSmoothing
from pruneyard.workloads.objectives.mdca import MDCA
from pruneyard.workloads.objectives.mmce import MMCE
from pruneyard.workloads.objectives.soft_ece import SoftECE

LOSSES: list[LogitsObjective] = [
    LabelSmoothing(smoothing=0.2),
    LabelSmoothing(smoothing=0.2, convention="other_classes"),
    Focal(gamma=0.5),
    Focal(gamma=3.0),
    Focal(gamma=2.0, by_sample=True),
    DualFocal(gamma=0.5),
    DualFocal(gamma=5.0),
    MMCE(weight=3.0),
    MMCE(weight=3.0, weighted=True, label_smoothing=0.1),
    MMCE(weight=3.0, squared=True),
    SoftECE(weight=3.0),
    SoftECE(weight=3.0, num_bins=4, temperature=0.1, label_smoothing=0.1),
    MDCA(weight=3.0),
]


def logits_of(probabilities: list[list[float]]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def loss(objective: LogitsObjective, probabilities: list[list[float]], labels: list[int]) -> float:
    return loss_of_logits(objective, logits_of(probabilities), labels)


def drawn(rows: int = 40, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (rows,), generator=generator)


def parts(logits: Tensor, labels: Tensor) -> list[tuple[float, int]]:
    """Returns the confidence of every row, and 1 where it is right, as Python numbers."""
    rows = logits.softmax(1).tolist()
    return [(max(row), int(row.index(max(row)) == y)) for row, y in zip(rows, labels.tolist(), strict=True)]


@each_case("objective", LOSSES, ids=repr)
def test_the_gradient_is_that_of_the_value(objective: LogitsObjective) -> None:
    """Differences in float64 agree, at rows whose right and wrong, gammas and order do not change within the steps."""
    logits, labels = drawn(rows=9)
    assert torch.autograd.gradcheck(lambda z: objective.loss_of_logits(z, labels), (logits.requires_grad_(),))


@each_case("objective", LOSSES, ids=repr)
def test_certain_rows_right_and_wrong_have_finite_losses_and_gradients(objective: LogitsObjective) -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0], [1.0, 1.0, 1.0]], requires_grad=True)
    value = objective.loss_of_logits(logits, torch.tensor([0, 0, 0]))
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@each_case("num_right", [0, 4], ids=["all wrong", "all right"])
@each_case("objective", LOSSES, ids=repr)
def test_rows_of_one_kind_have_finite_losses_and_gradients(objective: LogitsObjective, num_right: int) -> None:
    logits = torch.tensor([[90.0, 0.0, 0.0]] * 4, requires_grad=True)
    value = objective.loss_of_logits(logits, torch.tensor([0] * num_right + [1] * (4 - num_right)))
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@each_case("dtype", [torch.bfloat16, torch.float16])
@each_case("objective", LOSSES, ids=repr)
def test_narrow_logits_are_computed_with_in_float32(objective: LogitsObjective, dtype: torch.dtype) -> None:
    wide, labels = drawn()
    narrow = wide.to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        found = loss_of_logits(objective, narrow, labels.tolist())
    assert found == loss_of_logits(objective, narrow.float(), labels.tolist())


# Label smoothing.


def test_smoothing_over_all_classes_is_that_of_cross_entropy_bit_for_bit() -> None:
    logits, labels = drawn()
    for smoothing in (0.0, 0.05, 0.3):
        found = loss_of_logits(LabelSmoothing(smoothing=smoothing), logits, labels.tolist())
        assert found == loss_of_logits(CrossEntropy(label_smoothing=smoothing), logits, labels.tolist())


def test_smoothing_over_other_classes_keeps_the_rest_for_the_label() -> None:
    """s = 0.3 over three classes: 0.7 for the label and 0.15 for each other."""
    expected = -(0.7 * math.log(0.5) + 0.15 * math.log(0.4) + 0.15 * math.log(0.1))
    found = loss(LabelSmoothing(smoothing=0.3, convention="other_classes"), [[0.5, 0.4, 0.1]], [0])
    assert found == pytest.approx(expected, rel=1e-12)


def test_smoothing_over_other_classes_is_more_smoothing_over_all() -> None:
    logits, labels = drawn(classes=4)
    others = LabelSmoothing(smoothing=0.3, convention="other_classes")
    found = loss_of_logits(others, logits, labels.tolist())
    same = loss_of_logits(LabelSmoothing(smoothing=0.3 * 4 / 3), logits, labels.tolist())
    assert found == pytest.approx(same, rel=1e-12)


def test_one_class_has_no_others_to_share_with() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        loss(LabelSmoothing(convention="other_classes"), [[1.0]], [0])


# Focal losses.


def test_focal_loss_counts_a_row_by_what_its_label_lacks() -> None:
    rows = [[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]
    expected = -(0.5**2 * math.log(0.5) + 0.2**2 * math.log(0.8)) / 2
    assert loss(Focal(gamma=2.0), rows, [0, 1]) == pytest.approx(expected, rel=1e-12)


def test_by_sample_unlikely_labels_have_the_larger_gammas() -> None:
    rows = [[0.1, 0.9], [0.3, 0.7], [0.6, 0.4]]
    expected = -(0.9**5 * math.log(0.1) + 0.7**3 * math.log(0.3) + 0.4**1.5 * math.log(0.6)) / 3
    assert loss(Focal(gamma=1.5, by_sample=True), rows, [0, 0, 0]) == pytest.approx(expected, rel=1e-12)


def test_gammas_change_at_their_thresholds() -> None:
    """At 0.2 it is 3 already, at 0.5 the field's."""
    for p, gamma in ((0.2 + 1e-9, 3.0), (0.2 - 1e-9, 5.0), (0.5 + 1e-9, 0.0), (0.5 - 1e-9, 3.0)):
        found = loss(Focal(gamma=0.0, by_sample=True), [[p, 1 - p]], [0])
        assert found == pytest.approx(-((1 - p) ** gamma) * math.log(p), rel=1e-9)


def test_dual_focal_loss_uses_the_largest_probability_below_that_of_the_label() -> None:
    row = [0.5, 0.3, 0.2]
    for label, rival in ((0, 0.3), (1, 0.2), (2, 0.0)):  # the last one has none
        expected = -((1 - row[label] + rival) ** 5) * math.log(row[label])
        assert loss(DualFocal(gamma=5.0), [row], [label]) == pytest.approx(expected, rel=1e-12)


def test_a_rival_of_the_labels_probability_is_not_below_it() -> None:
    logits = torch.tensor([[2.0, 2.0, 0.0]], dtype=torch.float64)
    p, q = logits.softmax(1)[0, 0].item(), logits.softmax(1)[0, 2].item()
    found = loss_of_logits(DualFocal(gamma=3.0), logits, [0])
    assert found == pytest.approx(-((1 - p + q) ** 3) * math.log(p), rel=1e-12)


def test_dual_focal_loss_of_a_rival_without_probability_is_focal_loss() -> None:
    logits = torch.tensor([[1.0, -800.0], [-1.0, -800.0]], dtype=torch.float64)
    logits = torch.cat([logits, torch.tensor([[9.0], [3.0]], dtype=torch.float64)], dim=1)  # above the label
    dual = loss_of_logits(DualFocal(gamma=3.0), logits, [0, 0])
    assert dual == pytest.approx(loss_of_logits(Focal(gamma=3.0), logits, [0, 0]), rel=1e-12)


# MMCE.


def term(found: float, logits: Tensor, labels: list[int]) -> float:
    return found - loss_of_logits(CrossEntropy(), logits, labels)


TWO = [[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]]  # the first right, the second wrong


def test_mmce_of_two_rows() -> None:
    """d = 0.2 / 2 and -0.6 / 2, and the kernel between them is exp(-0.2 / 0.4)."""
    expected = 0.1**2 + 0.3**2 - 2 * 0.1 * 0.3 * math.exp(-0.5)
    logits = logits_of(TWO)
    found = term(loss(MMCE(weight=1.0, squared=True), TWO, [0, 1]), logits, [0, 1])
    assert found == pytest.approx(expected, rel=1e-12)
    rooted = term(loss(MMCE(weight=1.0), TWO, [0, 1]), logits, [0, 1])
    assert rooted == pytest.approx(math.sqrt(expected), rel=1e-7)


def test_weighted_mmce_of_three_rows_divides_by_the_number_of_their_kind() -> None:
    """Two right ones, d = 0.2 / 2 and 0.1 / 2, and a wrong one, d = -0.6."""
    rows = [[0.8, 0.1, 0.1], [0.9, 0.05, 0.05], [0.6, 0.2, 0.2]]
    d, c = (0.1, 0.05, -0.6), (0.8, 0.9, 0.6)
    expected = sum(
        d[i] * d[j] * math.exp(-abs(c[i] - c[j]) / 0.4) for i, j in itertools.product(range(3), repeat=2)
    )
    found = term(
        loss(MMCE(weight=1.0, weighted=True, squared=True), rows, [0, 0, 1]), logits_of(rows), [0, 0, 1]
    )
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_mmce_is_the_sum_over_all_pairs(weighted: bool) -> None:
    logits, labels = drawn()
    rows = parts(logits, labels)
    num_right = sum(a for _, a in rows)
    sizes = [(num_right if a else len(rows) - num_right) if weighted else len(rows) for _, a in rows]
    d = [(a - c) / size for (c, a), size in zip(rows, sizes, strict=True)]
    pairs = itertools.product(range(len(rows)), repeat=2)
    square = sum(d[i] * d[j] * math.exp(-abs(rows[i][0] - rows[j][0]) / 0.25) for i, j in pairs)
    objective = MMCE(weight=2.0, width=0.25, weighted=weighted)
    found = term(loss_of_logits(objective, logits, labels.tolist()), logits, labels.tolist())
    assert found == pytest.approx(2 * math.sqrt(square), rel=1e-7)


def test_a_batch_without_wrong_rows_has_no_weighted_mmce() -> None:
    assert term(loss(MMCE(weighted=True), TWO, [0, 0]), logits_of(TWO), [0, 0]) == 0
    assert term(loss(MMCE(weighted=True), TWO, [1, 1]), logits_of(TWO), [1, 1]) == 0
    assert term(loss(MMCE(), TWO, [0, 0]), logits_of(TWO), [0, 0]) > 0.1


# Soft ECE.


def test_soft_ece_of_two_rows_in_two_bins() -> None:
    """Anchors 1/4 and 3/4; c = 0.8 right and 0.6 wrong; a row's share of a bin is a softmax of two."""
    t, anchors, rows = 0.05, (0.25, 0.75), ((0.8, 1), (0.6, 0))
    shares = []
    for c, _ in rows:
        weights = [math.exp(-((c - x) ** 2) / t) for x in anchors]
        shares.append([w / sum(weights) for w in weights])
    expected = 0.0
    for b in range(2):
        held = shares[0][b] + shares[1][b]
        gap = sum(share[b] * (a - c) for share, (c, a) in zip(shares, rows, strict=True)) / held
        expected += held / 2 * gap**2
    objective = SoftECE(weight=1.0, num_bins=2, temperature=t)
    found = term(loss(objective, TWO, [0, 1]), logits_of(TWO), [0, 1])
    assert found == pytest.approx(math.sqrt(expected), rel=1e-7)


def test_bins_of_hard_edges_give_the_root_mean_square_error_of_equal_width_bins() -> None:
    logits, labels = drawn(rows=200)
    bins: dict[int, list[float]] = {}
    for c, a in parts(logits, labels):
        bins.setdefault(min(int(c * 10), 9), []).append(a - c)
    square = sum(len(gaps) / 200 * (sum(gaps) / len(gaps)) ** 2 for gaps in bins.values())
    objective = SoftECE(weight=1.0, num_bins=10, temperature=1e-7)
    found = term(loss_of_logits(objective, logits, labels.tolist()), logits, labels.tolist())
    assert found == pytest.approx(math.sqrt(square), rel=1e-6)


def test_one_bin_has_the_gap_between_mean_confidence_and_accuracy() -> None:
    logits, labels = drawn()
    gap = sum(a - c for c, a in parts(logits, labels)) / 40
    found = term(loss_of_logits(SoftECE(num_bins=1), logits, labels.tolist()), logits, labels.tolist())
    assert found == pytest.approx(abs(gap), rel=1e-6)


# MDCA.


def test_mdca_of_three_rows() -> None:
    """Class 0: mean 0.7 and frequency 2/3; class 1: 0.2 and 1/3; class 2: 0.1 and 0."""
    rows = [[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.5, 0.35, 0.15]]
    gaps = (0.7 - 2 / 3, 1 / 3 - 0.2, 0.1)
    focal = -sum((1 - p) * math.log(p) for p in (0.9, 0.7, 0.35)) / 3
    assert loss(MDCA(weight=2.0), rows, [0, 0, 1]) == pytest.approx(focal + 2 * sum(gaps) / 3, rel=1e-12)
    cross_entropy = -sum(math.log(p) for p in (0.9, 0.7, 0.35)) / 3
    found = loss(MDCA(weight=2.0, gamma=0.0), rows, [0, 0, 1])
    assert found == pytest.approx(cross_entropy + 2 * sum(gaps) / 3, rel=1e-12)


def test_mdca_without_weight_is_focal_loss_bit_for_bit() -> None:
    logits, labels = drawn()
    found = loss_of_logits(MDCA(weight=0.0, gamma=2.0), logits, labels.tolist())
    assert found == loss_of_logits(Focal(gamma=2.0), logits, labels.tolist())


@each_case(
    ("make", "field", "value"),
    [
        (LabelSmoothing, "smoothing", 1.0),
        (LabelSmoothing, "smoothing", math.nan),
        (LabelSmoothing, "convention", "all"),
        (Focal, "gamma", -1.0),
        (Focal, "gamma", math.inf),
        (DualFocal, "gamma", math.nan),
        (MMCE, "weight", -0.1),
        (MMCE, "width", 0.0),
        (MMCE, "label_smoothing", 1.0),
        (SoftECE, "weight", -0.1),
        (SoftECE, "num_bins", 0),
        (SoftECE, "temperature", 0.0),
        (SoftECE, "label_smoothing", -0.1),
        (MDCA, "weight", -0.1),
        (MDCA, "gamma", -0.1),
    ],
)
def test_values_outside_their_range_are_refused(make: Callable[..., Any], field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is"):
        make(**{field: value})
