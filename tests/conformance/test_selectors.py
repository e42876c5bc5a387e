"""Rules that every selector must keep. Members are found by their files."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.testing.plug_in import build as build_plugin
from pruneyard.workloads.data.selection import (
    CLASSIFIER_GRADIENTS,
    FEATURES,
    GRADIENTS,
    OUTPUTS,
    Pool,
    Selector,
)
from pruneyard.workloads.plugins import names
from pruneyard.workloads.seeding import stream

FAMILY = "data.selectors"
LABELS = torch.tensor([2, 0, 1, 2, 2, 0, 1, 2, 0, 2, 1, 0, 2, 2, 0, 2])  # 5, 3 and 8 rows

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


def build(name: str, **fields: Any) -> Selector:
    built: Selector = build_plugin(FAMILY, name, **fields)
    return built


def pool(*, equal: bool = False) -> Pool:
    """Random knowledge of every row, or the same of all."""
    draws, num = stream(0, "pool"), len(LABELS)
    of = torch.zeros if equal else lambda shape: torch.rand(shape, generator=draws)
    return Pool(
        labels=LABELS,
        features=of((num, 4)),
        errors=of((2, 3, num)),
        margins=of((2, 3, num)) - 0.5,
        gradient_norms=of((2, num)),
    )


def select(name: str, counts: Sequence[int], *, seed: int = 0, at: Pool | None = None) -> Tensor:
    return build(name).select(at or pool(), counts, stream(seed, "select"))


def test_asks_for_nothing_that_a_pool_cannot_hold(name: str) -> None:
    assert build(name).asks <= {FEATURES, OUTPUTS, GRADIENTS, CLASSIFIER_GRADIENTS}


@each_case("counts", [(1, 1, 1), (2, 3, 5), (5, 3, 8), (0, 2, 0), (4, 1, 7)])
@each_case("equal", [False, True])
def test_counts_are_exact_rows_differ_and_come_class_after_class(
    name: str, counts: tuple[int, ...], equal: bool
) -> None:
    chosen = select(name, counts, at=pool(equal=equal))
    assert chosen.dtype == torch.int64
    assert LABELS[chosen].tolist() == [label for label, count in enumerate(counts) for _ in range(count)]
    assert len(set(chosen.tolist())) == sum(counts)


def test_more_rows_than_a_class_has_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="class 1 has 3 training rows; 4 are needed"):
        select(name, (1, 4, 1))


def test_the_generator_decides_and_nothing_else_does(name: str) -> None:
    before = torch.get_rng_state()
    first, again = (select(name, (2, 2, 2)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_selection_in_a_class_does_not_depend_on_other_classes(name: str) -> None:
    """Rules see one class at a time, so the first class's rows do not change with those of later classes."""
    known = pool()
    kept = (LABELS != 2).nonzero().squeeze(1)
    few = select(name, (2, 2), at=known.subset(kept))
    assert torch.equal(kept[few], select(name, (2, 2, 4), at=known)[:4])


def test_writes_into_nothing_it_is_given(name: str) -> None:
    known = pool()
    before = {field.name: getattr(known, field.name).clone() for field in dataclasses.fields(known)}
    select(name, (3, 2, 4), at=known)
    assert all(torch.equal(getattr(known, key), tensor) for key, tensor in before.items())


def test_a_selector_reads_only_what_it_declares(name: str) -> None:
    asked, known = build(name).asks, pool()
    of_gradients = {GRADIENTS, CLASSIFIER_GRADIENTS}
    held = {"features": {FEATURES}, "errors": {OUTPUTS}, "margins": {OUTPUTS}, "gradient_norms": of_gradients}
    bare = dataclasses.replace(known, **{key: torch.zeros(0) for key, names in held.items() if not names & asked})
    assert torch.equal(select(name, (2, 2, 2), at=bare), select(name, (2, 2, 2), at=known))
