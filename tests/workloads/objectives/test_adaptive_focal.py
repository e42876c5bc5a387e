"""AdaFocal: its rule worked by hand, bins, limits, and a training that follows the rule."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import NO_SPLIT_LOGITS, FixedLogits, loss_inputs, loss_of_logits
from pruneyard.testing.trainings import SEED, BatchNormMlp, checkpoint_at, digits, network_of, recipe_of, run
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.objectives.adaptive_focal import AdaptiveFocal, equal_mass_gaps
from pruneyard.workloads.objectives.focal import Focal
from pruneyard.workloads.sparse.methods.dense import Dense

TWO_BINS = AdaptiveFocal(num_bins=2)


def gammas_and_edges(gammas: list[float], edges: list[float]) -> dict[str, Tensor]:
    return {"gammas": torch.tensor(gammas), "edges": torch.tensor(edges)}


def loss(objective: AdaptiveFocal, rows: list[list[float]], labels: list[int], memory: Tensors) -> Tensor:
    logits = torch.tensor(rows, dtype=torch.float64).log()
    inputs = loss_inputs(
        lambda _: logits, torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels), memory=dict(memory)
    )
    return objective.loss(inputs)[0]


def val_of(confidences: list[float], right: list[int]) -> FixedLogits:
    """Returns two classes with class 0 predicted at these confidences."""
    rows = [[c, 1 - c] for c in confidences]
    labels = [0 if a else 1 for a in right]
    return FixedLogits(torch.tensor(rows, dtype=torch.float64).log(), torch.tensor(labels))


def test_a_row_takes_the_gamma_of_the_bin_of_its_labels_probability() -> None:
    """p = 0.3, 0.6 and 0.9 in bins below 0.5, from 0.5 and from 0.8; a gamma of -1.5 makes the loss grow with p."""
    memory = gammas_and_edges([2.0, 3.0, -1.5], [0.5, 0.8])
    rows = [[0.3, 0.7], [0.6, 0.4], [0.9, 0.1]]
    expected = -(0.7**2 * math.log(0.3) + 0.4**3 * math.log(0.6) + 1.9**1.5 * math.log(0.9)) / 3
    found = loss(AdaptiveFocal(num_bins=3), rows, [0, 0, 0], memory)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_gammas_are_moved_by_the_gaps() -> None:
    """Overconfident bins raise a positive gamma and lower, in size, a negative one; underconfident ones do the opposite."""
    gammas = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    gaps = torch.tensor([0.3, -0.3, 0.3, -0.3], dtype=torch.float64)
    up, down = math.exp(0.6), math.exp(-0.6)
    assert AdaptiveFocal(rate=2.0).moved(gammas, gaps).tolist() == pytest.approx([up, down, -down, -up])


def test_small_gammas_change_sides_and_large_ones_are_kept_within_bounds() -> None:
    objective = AdaptiveFocal(gamma_max=20.0, gamma_min=-2.0, switch_point=0.2)
    gammas = torch.tensor([0.21, -0.21, 19.0, -1.9], dtype=torch.float64)
    gaps = torch.tensor([-0.3, 0.3, 0.3, -0.3], dtype=torch.float64)
    assert objective.moved(gammas, gaps).tolist() == [-0.2, 0.2, 20.0, -2.0]


def test_on_epoch_start_divides_val_into_bins_of_equal_numbers() -> None:
    """Confidences 0.6 0.7 | 0.8 0.9: the first two right and wrong, gap 0.65 - 0.5; the others right, gap 0.85 - 1."""
    fixed_logits = val_of([0.9, 0.6, 0.8, 0.7], [1, 1, 1, 0])
    found = TWO_BINS.on_epoch_start(TWO_BINS.start(), epoch=1, num_epochs=3, split_logits=fixed_logits)
    assert found["edges"].tolist() == pytest.approx([0.8])
    assert found["gammas"].tolist() == pytest.approx([math.exp(0.15), math.exp(-0.15)])


def test_gammas_are_carried_on_from_epoch_to_epoch() -> None:
    fixed_logits = val_of([0.9, 0.6, 0.8, 0.7], [1, 1, 1, 0])
    memory: Tensors = TWO_BINS.start()
    for epoch in range(4):  # the first one does not look
        memory = TWO_BINS.on_epoch_start(memory, epoch=epoch, num_epochs=4, split_logits=fixed_logits)
    assert memory["gammas"].tolist() == pytest.approx([math.exp(0.45), math.exp(-0.45)], rel=1e-6)


@each_case("num_bins", [1, 3, 7, 15])
@each_case("num_rows", [1, 7, 100])
def test_bins_are_those_of_sorting_by_hand(num_bins: int, num_rows: int) -> None:
    draws = torch.Generator().manual_seed(num_rows)
    confidence = torch.rand(num_rows, generator=draws, dtype=torch.float64)
    right = torch.randint(2, (num_rows,), generator=draws).double()
    edges, gaps = equal_mass_gaps(confidence, right, num_bins)
    ordered = sorted(zip(confidence.tolist(), right.tolist(), strict=True))
    bins: list[list[tuple[float, float]]] = [[] for _ in range(num_bins)]
    for rank, row in enumerate(ordered):
        bins[rank * num_bins // num_rows].append(row)
    assert gaps.tolist() == pytest.approx(
        [sum(c - a for c, a in held) / len(held) if held else 0.0 for held in bins]
    )
    assert sorted(edges.tolist()) == edges.tolist()
    bin_of = {c: place for place, held in enumerate(bins) for c, _ in held}
    found = torch.bucketize(confidence, edges, right=True)
    assert found.tolist() == [bin_of[c] for c in confidence.tolist()]


def test_saturated_confidences_leave_bins_that_no_row_meets() -> None:
    edges, gaps = equal_mass_gaps(
        torch.ones(6, dtype=torch.float64), torch.tensor([1.0, 1, 1, 0, 1, 1]).double(), 3
    )
    assert edges.tolist() == [1.0, 1.0]
    assert torch.bucketize(torch.tensor([0.99, 1.0]), edges, right=True).tolist() == [0, 2]
    assert sum(gaps.tolist()) * 2 == pytest.approx(1.0)


def test_gammas_that_may_not_move_make_it_focal_loss() -> None:
    still = AdaptiveFocal(initial=2.5, rate=0.0)
    memory = still.on_epoch_start(still.start(), epoch=7, num_epochs=9, split_logits=NO_SPLIT_LOGITS)
    draws = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 5, generator=draws, dtype=torch.float64), [i % 5 for i in range(40)]
    found = loss(still, logits.softmax(1).tolist(), labels, memory)
    assert float(found) == pytest.approx(loss_of_logits(Focal(gamma=2.5), logits, labels), rel=1e-12)


def test_the_gradient_is_that_of_the_value_with_gammas_on_both_sides() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 4, generator=draws, dtype=torch.float64, requires_grad=True)
    labels, memory = torch.arange(12) % 4, gammas_and_edges([0.5, 3.0, -1.5], [0.2, 0.4])

    def value(z: Tensor) -> Tensor:
        inputs = loss_inputs(lambda _: z, torch.zeros(12, 1, 1, 1), labels, memory=memory)
        return AdaptiveFocal(num_bins=3).loss(inputs)[0]

    assert torch.autograd.gradcheck(value, (logits,))


def test_a_training_moves_its_gammas_by_the_network_that_an_epoch_finds(tmp_path: Path) -> None:
    """Six steps an epoch: gammas after step 7 are those of val under the weights after step 6, in evaluation mode."""
    objective, data = AdaptiveFocal(num_bins=4), digits()
    recipe = recipe_of(objective=objective, budget={"checkpoint_every_s": 0})
    run(Dense(), tmp_path / "run", recipe)
    at = {step: checkpoint_at(step, tmp_path / "run", tmp_path / str(step)) for step in (6, 7, 12, 13)}
    torch.manual_seed(SEED)
    network = BatchNormMlp().build(image_shape=data.image_shape, num_classes=10).eval()
    (images, labels), *_ = DeviceSplit(data.val, mean=data.mean, std=data.std).batches(1000)
    memory: Tensors = objective.start()
    assert at[6].tensors["memory/gammas"].tolist() == [1.0] * 4
    for epoch, (before, after) in enumerate(((6, 7), (12, 13)), start=1):
        network.load_state_dict(network_of(at[before]))
        with torch.no_grad():
            fixed_logits = FixedLogits(network(images), labels)
        memory = objective.on_epoch_start(memory, epoch=epoch, num_epochs=3, split_logits=fixed_logits)
        for name, tensor in memory.items():
            assert torch.equal(at[after].tensors[f"memory/{name}"], tensor), name
    assert len({*memory["gammas"].tolist()}) > 1


def test_what_is_remembered_is_reported_where_it_is_one_number(tmp_path: Path) -> None:
    progress = run(Dense(), tmp_path, recipe_of(objective=AdaptiveFocal()))
    names = {m.name for part in progress for m in part.metrics if m.split == "train"}
    assert "loss" in names
    assert not names & {"gammas", "edges"}


def test_data_without_val_are_refused(tmp_path: Path) -> None:
    data = digits()
    none = Split(images=data.val.images[:0], labels=data.val.labels[:0], row_ids=data.val.row_ids[:0])
    with pytest.raises(ValueError, match="no val rows"):
        run(Dense(), tmp_path, recipe_of(objective=AdaptiveFocal()), data=replace(data, val=none))


@each_case(
    ("field", "given"),
    [
        ("initial", {"initial": 21.0}),
        ("initial", {"initial": 0.1}),
        ("initial", {"initial": 0.0, "switch_point": 0.0}),
        ("rate", {"rate": -1.0}),
        ("switch_point", {"switch_point": -0.1}),
        ("num_bins", {"num_bins": 0}),
    ],
)
def test_values_outside_their_range_are_refused(field: str, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is"):
        AdaptiveFocal(**given)
