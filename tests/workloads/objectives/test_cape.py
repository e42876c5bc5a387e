"""CaPE: bins and kernel worked by hand, their limits, and the right target for every row."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import NO_SPLIT_LOGITS, FixedLogits, loss_inputs, loss_of_logits
from pruneyard.testing.trainings import BatchNormMlp, checkpoint_at, digits, network_of, recipe_of, run
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.interfaces import LossInputs, StatelessObjective, Tensors
from pruneyard.workloads.objectives.cape import CaPE
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.sparse.methods.dense import Dense

AT_ONCE = CaPE(warmup_epochs=0, plain_epochs=2, num_bins=2)


def binary(predicted: list[float]) -> Tensor:
    second = torch.tensor(predicted, dtype=torch.float64)
    return torch.stack([1 - second, second], dim=1)


def drawn(rows: int, classes: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(rows + classes)
    probabilities = torch.randn(rows, classes, generator=draws, dtype=torch.float64).softmax(1)
    return probabilities, torch.randint(classes, (rows,), generator=draws)


def test_bins_give_every_row_the_mean_label_of_its_group() -> None:
    """Sorted 0.1 0.2 0.3 | 0.6 0.7 0.9, of which 0.3 came, and 0.6 and 0.9."""
    predicted, labels = [0.9, 0.1, 0.6, 0.3, 0.7, 0.2], [1, 0, 1, 1, 0, 0]
    found = CaPE(num_bins=2).targets(binary(predicted), torch.tensor(labels))
    assert found[:, 1].tolist() == pytest.approx([2 / 3, 1 / 3, 2 / 3, 1 / 3, 2 / 3, 1 / 3])
    assert found.sum(1).tolist() == pytest.approx([1.0] * 6)


def test_the_kernel_weighs_three_neighbours() -> None:
    """p = 0.5, 0.6 and 0.8, of which the second came, with a deviation of 0.1: weights e^-0.5, e^-2 and e^-4.5."""
    near, far, farther = math.exp(-0.5), math.exp(-2), math.exp(-4.5)
    found = CaPE(estimate="kernel", bandwidth=0.1, window=5).targets(
        binary([0.6, 0.8, 0.5]), torch.tensor([1, 0, 0])
    )
    expected = [1 / (1 + near + far), far / (1 + far + farther), near / (1 + near + farther)]
    assert found[:, 1].tolist() == pytest.approx(expected, rel=1e-12)


@each_case("window", [1, 4, 100])
def test_the_kernel_is_that_of_loops_over_neighbours_in_rank(window: int) -> None:
    probabilities, labels = drawn(50, 2)
    objective = CaPE(estimate="kernel", bandwidth=0.07, window=window)
    rows = sorted(
        (p, int(y), i) for i, (p, y) in enumerate(zip(probabilities[:, 1].tolist(), labels, strict=True))
    )
    found = objective.targets(probabilities, labels)[:, 1]
    for rank, (p, _, i) in enumerate(rows):
        near = rows[max(rank - window, 0) : rank + window + 1]
        weights = [math.exp(-0.5 * ((q - p) / 0.07) ** 2) for q, _, _ in near]
        expected = sum(w * y for w, (_, y, _) in zip(weights, near, strict=True)) / sum(weights)
        assert found[i].item() == pytest.approx(expected, rel=1e-10, abs=1e-15)


def test_a_narrow_kernel_does_not_underflow() -> None:
    """A row far from all others keeps its own label."""
    found = CaPE(estimate="kernel", bandwidth=1e-6, window=2).targets(
        binary([0.1, 0.5, 0.9]), torch.tensor([1, 0, 1])
    )
    assert found[:, 1].tolist() == [1.0, 0.0, 1.0]


@each_case("estimate", ["bins", "kernel"])
@each_case("classes", [2, 5])
def test_targets_are_distributions_whose_mean_is_that_of_the_labels_for_two_classes(
    estimate: Any, classes: int
) -> None:
    probabilities, labels = drawn(90, classes)
    found = CaPE(estimate=estimate).targets(probabilities, labels)
    assert found.shape == (90, classes)
    assert (found >= 0).all()
    assert found.sum(1).tolist() == pytest.approx([1.0] * 90)
    if classes == 2 and estimate == "bins":
        assert found[:, 1].mean().item() == pytest.approx((labels == 1).double().mean().item())


def test_of_more_classes_each_is_estimated_against_the_rest_and_normalised() -> None:
    probabilities, labels = drawn(60, 4)
    objective = CaPE(num_bins=6)
    each = torch.stack([objective.frequencies(probabilities[:, k], labels == k) for k in range(4)], dim=1)
    assert torch.allclose(objective.targets(probabilities, labels), each / each.sum(1, keepdim=True))


def test_a_bin_for_every_row_gives_labels_and_one_bin_the_base_rate() -> None:
    probabilities, labels = drawn(30, 2)
    single = CaPE(num_bins=30).targets(probabilities, labels)
    assert torch.equal(single, torch.nn.functional.one_hot(labels, 2).double())
    together = CaPE(num_bins=1).targets(probabilities, labels)[:, 1]
    assert together.tolist() == pytest.approx([(labels == 1).double().mean().item()] * 30)


def test_targets_come_after_the_warm_epochs_and_again_after_the_plain_ones() -> None:
    objective = CaPE(warmup_epochs=2, plain_epochs=2, num_bins=2)
    probabilities, labels = drawn(8, 2)
    memory, found = objective.start(), []
    for epoch in range(9):
        fixed_logits = FixedLogits(probabilities.log(), labels) if epoch in (2, 5, 8) else NO_SPLIT_LOGITS
        memory = objective.on_epoch_start(memory, epoch=epoch, num_epochs=9, split_logits=fixed_logits)
        found.append(len(memory["targets"]))
    assert found == [0, 0, 8, 0, 0, 8, 0, 0, 8]


def loss(logits: Tensor, labels: list[int], memory: Tensors, rows: list[int]) -> float:
    inputs = loss_inputs(
        lambda _: logits, torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels), memory=dict(memory)
    )
    inputs.rows = lambda: torch.tensor(rows)
    return float(AT_ONCE.loss(inputs)[0])


def test_the_loss_is_cross_entropy_against_the_targets_of_the_batchs_rows() -> None:
    logits = torch.tensor([[0.5, 0.5], [0.2, 0.8]], dtype=torch.float64).log()
    memory = {"targets": torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.5, 0.5]])}
    expected = -(0.5 * math.log(0.5) * 2 + 0.25 * math.log(0.2) + 0.75 * math.log(0.8)) / 2
    assert loss(logits, [0, 0], memory, [2, 1]) == pytest.approx(expected, rel=1e-12)


def test_targets_that_are_labels_give_cross_entropy() -> None:
    probabilities, labels = drawn(30, 2)
    memory = {"targets": torch.nn.functional.one_hot(labels, 2).float()}
    found = loss(probabilities.log(), labels.tolist(), memory, list(range(30)))
    assert found == pytest.approx(
        loss_of_logits(CrossEntropy(), probabilities.log(), labels.tolist()), rel=1e-12
    )


@dataclass(frozen=True, kw_only=True)
class Checking(StatelessObjective):
    """Cross-entropy that checks whether a batch has the rows that it claims to have."""

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Raises where the labels are others."""
        claimed = torch.from_numpy(digits().train.labels)[inputs.rows()]
        assert torch.equal(claimed, inputs.labels)
        return CrossEntropy().loss(inputs)


def test_a_training_names_the_rows_of_its_batches_resumed_or_not(tmp_path: Path) -> None:
    recipe = recipe_of(objective=Checking(), budget={"batch_size": 17, "checkpoint_every_s": 0})
    run(Dense(), tmp_path / "run", recipe)  # 18 steps, five an epoch
    checkpoint_at(7, tmp_path / "run", tmp_path / "from-7")
    run(Dense(), tmp_path / "from-7", recipe)


def test_a_training_has_the_targets_of_the_network_that_an_epoch_finds(tmp_path: Path) -> None:
    """Six steps an epoch; with one warm epoch, targets after step 7 are of the weights after step 6."""
    objective, data = CaPE(warmup_epochs=1, num_bins=3), digits()
    run(Dense(), tmp_path / "run", recipe_of(objective=objective, budget={"checkpoint_every_s": 0}))
    at = {step: checkpoint_at(step, tmp_path / "run", tmp_path / str(step)) for step in (6, 7, 12, 13)}
    network = BatchNormMlp().build(image_shape=data.image_shape, num_classes=10).eval()
    network.load_state_dict(network_of(at[6]))
    (images, labels), *_ = DeviceSplit(data.train, mean=data.mean, std=data.std).batches(1000)
    with torch.no_grad():
        expected = objective.targets(network(images).double().softmax(1), labels).float()
    held = {step: saved.tensors["memory/targets"] for step, saved in at.items()}
    assert (len(held[6]), len(held[13])) == (0, 0)
    assert torch.equal(held[7], expected)
    assert torch.equal(held[12], expected)


@each_case(
    ("field", "value"),
    [
        ("warmup_epochs", -1),
        ("plain_epochs", -1),
        ("num_bins", 0),
        ("window", 0),
        ("bandwidth", 0.0),
        ("estimate", "histogram"),
    ],
)
def test_values_outside_their_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is"):
        CaPE(**{field: value})
