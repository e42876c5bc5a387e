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


def random_pool(*, equal: bool = False) -> Pool:
    """Returns random statistics of every row, or the same for all rows."""
    generator, num_rows = stream(0, "pool"), len(LABELS)
    values = torch.zeros if equal else lambda shape: torch.rand(shape, generator=generator)
    return Pool(
        labels=LABELS,
        features=values((num_rows, 4)),
        errors=values((2, 3, num_rows)),
        margins=values((2, 3, num_rows)) - 0.5,
        gradient_norms=values((2, num_rows)),
    )


def select(name: str, counts: Sequence[int], *, seed: int = 0, pool: Pool | None = None) -> Tensor:
    return build(name).select(pool or random_pool(), counts, stream(seed, "select"))


def test_asks_for_nothing_that_a_pool_cannot_hold(name: str) -> None:
    assert build(name).asks <= {FEATURES, OUTPUTS, GRADIENTS, CLASSIFIER_GRADIENTS}


@each_case("counts", [(1, 1, 1), (2, 3, 5), (5, 3, 8), (0, 2, 0), (4, 1, 7)])
@each_case("equal", [False, True])
def test_counts_are_exact_rows_differ_and_come_class_after_class(
    name: str, counts: tuple[int, ...], equal: bool
) -> None:
    chosen = select(name, counts, pool=random_pool(equal=equal))
    assert chosen.dtype == torch.int64
    assert LABELS[chosen].tolist() == [label for label, count in enumerate(counts) for _ in range(count)]
    assert len(set(chosen.tolist())) == sum(counts)


def test_more_rows_than_a_class_has_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="class 1 has 3 training rows, but 4 are needed"):
        select(name, (1, 4, 1))


def test_the_generator_decides_and_nothing_else_does(name: str) -> None:
    before = torch.get_rng_state()
    first, second = (select(name, (2, 2, 2)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_selection_in_a_class_does_not_depend_on_other_classes(name: str) -> None:
    """Rules see one class at a time, so the first class's rows do not change with those of later classes."""
    pool = random_pool()
    rows = (LABELS != 2).nonzero().squeeze(1)
    selected = select(name, (2, 2), pool=pool.subset(rows))
    assert torch.equal(rows[selected], select(name, (2, 2, 4), pool=pool)[:4])


def test_writes_into_nothing_it_is_given(name: str) -> None:
    pool = random_pool()
    before = {field.name: getattr(pool, field.name).clone() for field in dataclasses.fields(pool)}
    select(name, (3, 2, 4), pool=pool)
    assert all(torch.equal(getattr(pool, key), tensor) for key, tensor in before.items())


def test_a_selector_reads_only_what_it_declares(name: str) -> None:
    asks, pool = build(name).asks, random_pool()
    of_gradients = {GRADIENTS, CLASSIFIER_GRADIENTS}
    fields_of_statistic = {"features": {FEATURES}, "errors": {OUTPUTS}, "margins": {OUTPUTS}, "gradient_norms": of_gradients}
    bare = dataclasses.replace(pool, **{key: torch.zeros(0) for key, names in fields_of_statistic.items() if not names & asks})
    assert torch.equal(select(name, (2, 2, 2), pool=bare), select(name, (2, 2, 2), pool=pool))
