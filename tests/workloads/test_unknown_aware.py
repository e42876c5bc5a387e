"""The unknown-aware loss: worked examples, its limits, where it favours the unknown output, and the ramp of a."""

import math

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import NO_SPLIT_LOGITS, loss_inputs
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.objectives.unknown_aware import UnknownAware


def memory_with(a: float, seen: float = -1.0) -> dict[str, Tensor]:
    return {"unknown_weight": torch.tensor(a), "known_loss": torch.tensor(seen)}


def loss(logits: Tensor, labels: list[int], a: float, **fields: float) -> Tensor:
    inputs = loss_inputs(
        lambda _: logits, torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels), memory=memory_with(a)
    )
    return UnknownAware(**fields).loss(inputs)[0]  # type: ignore[arg-type]


def remembered(logits: Tensor, labels: list[int], memory: dict[str, Tensor], rate: float = 0.05) -> float:
    inputs = loss_inputs(lambda _: logits, torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels), memory=memory)
    return float(UnknownAware(rate=rate).loss(inputs)[1]["known_loss"])


def cross_entropy(logits: Tensor, labels: list[int]) -> Tensor:
    inputs = loss_inputs(lambda _: logits, torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels))
    return CrossEntropy().loss(inputs)[0]


def drawn(rows: int = 200, outputs: int = 6, seed: int = 0) -> Tensor:
    logits = torch.randn(rows, outputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (3 * logits).requires_grad_()


def labels_of(rows: int = 200, classes: int = 5) -> list[int]:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(1)).tolist()


def test_a_wrong_sample_weighs_more_by_a_worked_example() -> None:
    """Two classes and unknown. Right: h = -log 0.6. Wrong, u = 0.5, a = 1: h = -log 0.2 times 1 + 1 / 1.5."""
    logits = torch.tensor([[0.6, 0.1, 0.3], [0.2, 0.3, 0.5]], dtype=torch.float64).log()
    expected = (-math.log(0.6) - math.log(0.2) * (1 + 1 / 1.5)) / 2
    assert float(loss(logits, [0, 0], a=1.0)) == pytest.approx(expected, rel=1e-7)


def test_predicting_unknown_counts_as_wrong() -> None:
    """The label leads the classes but not all outputs: u = 0.5, a = 1 again."""
    logits = torch.tensor([[0.3, 0.2, 0.5]], dtype=torch.float64).log()
    assert float(loss(logits, [0], a=1.0)) == pytest.approx(-math.log(0.3) * (1 + 1 / 1.5), rel=1e-7)


def test_without_weight_it_is_cross_entropy_over_all_outputs() -> None:
    logits, twin = drawn(), drawn()
    found, expected = loss(logits, labels_of(), a=0.0), cross_entropy(twin, labels_of())
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(logits.grad, twin.grad, rtol=1e-12, atol=1e-15)  # type: ignore[arg-type]


def test_an_unknown_logit_of_minus_infinity_gives_cross_entropy_over_the_classes() -> None:
    logits, twin = drawn(), drawn()
    closed = torch.cat([logits[:, :5], torch.full((200, 1), -torch.inf, dtype=torch.float64)], dim=1)
    found, expected = loss(closed, labels_of(), a=0.0), cross_entropy(twin[:, :5], labels_of())
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(logits.grad, twin.grad, rtol=1e-12, atol=1e-15)  # type: ignore[arg-type]


@each_case("a", [0.0, 0.3, 1.0, 5.0])
def test_right_samples_get_plain_cross_entropy(a: float) -> None:
    logits = drawn()
    labels = logits[:, :5].argmax(dim=1)
    right = logits.argmax(dim=1) == labels
    kept, of_kept = logits[right], labels[right].tolist()
    assert loss(kept, of_kept, a=a).item() == pytest.approx(cross_entropy(kept, of_kept).item(), rel=1e-12)


@each_case("a", [0.1, 1.0, 4.0])
def test_wrong_samples_weigh_between_their_bounds(a: float) -> None:
    """1 + a / (1 + a) where all is unknown, 1 + a where nothing is."""
    logits, labels = drawn(), labels_of()
    for row, label in zip(logits, labels, strict=True):
        if int(row.argmax()) != label:
            weight = loss(row[None], [label], a=a).item() / cross_entropy(row[None], [label]).item()
            assert 1 + a / (1 + a) - 1e-9 <= weight <= 1 + a + 1e-9


def gradient_of_unknown(h: float, a: float, u: float = 1e-5) -> float:
    """Returns the gradient of the loss of one wrong sample with these h and u, by the logit of unknown."""
    label = math.exp(-h)
    logits = torch.tensor([[label, 1 - label - u, u]], dtype=torch.float64).log().requires_grad_()
    loss(logits, [0], a=a).backward()
    assert logits.grad is not None
    return float(logits.grad[0, -1])


@each_case(("a", "threshold"), [(1.0, 2.0), (0.5, 6.0), (0.3, 14.44)])
def test_the_unknown_output_lowers_the_loss_where_the_label_is_unlikely_enough(a: float, threshold: float) -> None:
    assert gradient_of_unknown(0.95 * threshold, a) > 0
    assert gradient_of_unknown(1.05 * threshold, a) < 0


@each_case("u", [0.01, 0.2, 0.6])
@each_case("a", [0.3, 1.0, 3.0])
def test_the_gradient_of_the_unknown_logit_is_the_derived_one(a: float, u: float) -> None:
    """u (1 + a / (1 + a u) - h a^2 (1 - u) / (1 + a u)^2): nothing is detached."""
    h = 3.0
    expected = u * (1 + a / (1 + a * u) - h * a**2 * (1 - u) / (1 + a * u) ** 2)
    assert gradient_of_unknown(h, a, u) == pytest.approx(expected, rel=1e-6)


def test_the_moving_average_begins_with_its_first_value() -> None:
    """(1 - u) h of two rows: 0.7 * log(1 / 0.6) and 0.5 * log(1 / 0.2)."""
    logits = torch.tensor([[0.6, 0.1, 0.3], [0.2, 0.3, 0.5]], dtype=torch.float64).log()
    now = (0.7 * math.log(1 / 0.6) + 0.5 * math.log(1 / 0.2)) / 2
    assert remembered(logits, [0, 0], dict(UnknownAware().start())) == pytest.approx(now, rel=1e-6)
    assert remembered(logits, [0, 0], memory_with(0.0, seen=2.0)) == pytest.approx(
        0.95 * 2 + 0.05 * now, rel=1e-6
    )
    assert remembered(logits, [0, 0], memory_with(0.0, seen=2.0), rate=1.0) == pytest.approx(now, rel=1e-6)


def test_the_loss_modifies_no_memory_and_changes_its_weight_only_at_epochs() -> None:
    memory = memory_with(0.5, seen=2.0)
    inputs = loss_inputs(lambda _: drawn(), torch.zeros(200, 1, 1, 1), torch.tensor(labels_of()), memory=memory)
    _, after = UnknownAware().loss(inputs)
    assert (float(memory["unknown_weight"]), float(memory["known_loss"])) == (0.5, 2.0)
    assert float(after["unknown_weight"]) == 0.5
    assert not after["known_loss"].requires_grad


def ramp(objective: UnknownAware, num_epochs: int, seen: float) -> list[float]:
    """Returns a in every epoch of a training whose moving average stays constant."""
    memory, found = memory_with(0.0, seen=seen), []
    for epoch in range(num_epochs):
        options = {"epoch": epoch, "num_epochs": num_epochs}
        memory = dict(objective.on_epoch_start(memory, split_logits=NO_SPLIT_LOGITS, **options))
        found.append(float(memory["unknown_weight"]))
    return found


def test_a_rises_by_equal_amounts_from_the_moving_average_to_its_weight() -> None:
    """Three warm epochs; then 6.4 / 64 = 0.1 to 1 in the eighth and last one."""
    found = ramp(UnknownAware(warmup_epochs=3), num_epochs=8, seen=6.4)
    assert found == pytest.approx([0, 0, 0, 0.1, 0.325, 0.55, 0.775, 1.0], rel=1e-6)
    assert found[-1] == 1.0


@each_case("num_epochs", [7, 50, 100, 333])
def test_a_is_exactly_its_weight_in_the_last_epoch_and_rises_in_a_line(num_epochs: int) -> None:
    found = ramp(UnknownAware(weight=0.7, warmup_epochs=5), num_epochs=num_epochs, seen=2.0)
    assert found[:5] == [0.0] * 5
    assert found[-1] == float(torch.tensor(0.7))
    rises = torch.tensor(found[5:], dtype=torch.float64).diff()
    assert torch.allclose(rises, rises.mean().expand_as(rises), atol=1e-6)


def test_a_begins_no_higher_than_it_ends() -> None:
    assert ramp(UnknownAware(weight=0.05, warmup_epochs=2), num_epochs=5, seen=64.0) == pytest.approx(
        [0, 0] + [0.05] * 3
    )
    assert ramp(UnknownAware(weight=0.0, warmup_epochs=2), num_epochs=5, seen=64.0) == [0.0] * 5


@pytest.mark.parametrize("num_epochs", [3, 5])
def test_a_budget_of_warm_epochs_is_cross_entropy_throughout(num_epochs: int) -> None:
    assert ramp(UnknownAware(warmup_epochs=5), num_epochs=num_epochs, seen=2.0) == [0.0] * num_epochs


def test_one_epoch_after_the_warm_ones_has_the_whole_weight() -> None:
    assert ramp(UnknownAware(warmup_epochs=2), num_epochs=3, seen=2.0) == [0.0, 0.0, 1.0]


def test_low_precision_logits_are_no_worse_than_their_rounding() -> None:
    """Autocast makes the log-softmax float32; without it the objective itself must not lose more."""
    logits = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(logits, labels_of(64), a=1.0)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(float(loss(logits, labels_of(64), a=1.0)), rel=1e-5)


@each_case(
    ("field", "value"), [("weight", -1.0), ("warmup_epochs", 0), ("divisor", 0.0), ("rate", 0.0), ("rate", 1.5)]
)
def test_values_outside_their_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is"):
        UnknownAware(**{field: value})  # type: ignore[arg-type]
