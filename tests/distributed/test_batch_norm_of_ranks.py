"""Batch norm over two real ranks: synchronised it equals that of one process; local it is that of each rank."""

from pathlib import Path

import pytest
from rank_trainings import NUM_STEPS, Case
from test_ranks import (
    PairPool,
    assert_every_step_is_close_to_that_of_one_process,
    assert_ranks_agree,
    assert_trains_as_one_process_does,
    pair_pool,
    saved,
)

from pruneyard.workloads.models.convnet import ConvNet

__all__ = ["pair_pool"]

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

NORMED = ConvNet(width=4, depth=2, norm="batch")


@pytest.mark.parametrize(("rule", "channels_last"), [("plain", False), ("sam", False), ("svrg", False), ("svrg", True)])
def test_synchronised_it_trains_as_one_process_does(
    rule: str, channels_last: bool, pair_pool: PairPool, tmp_path: Path
) -> None:
    case = Case(folder=tmp_path / "pair", model=NORMED, rule=rule, budget={"channels_last": channels_last})
    assert_trains_as_one_process_does(pair_pool, case)
    buffers = saved(case.folder)[NUM_STEPS].tensors
    assert len([n for n in buffers if n.startswith("network/") and n.endswith("running_var")]) == NORMED.depth


def test_compiled_it_is_refused(pair_pool: PairPool, tmp_path: Path) -> None:
    reports = pair_pool.train(Case(folder=tmp_path / "pair", model=NORMED, budget={"compile": True}))
    assert all(
        "budget.compile is true, but a compiled network cannot synchronise batch norm" in report.refused for report in reports
    )


def test_local_it_is_the_same_on_both_ranks_and_not_that_of_one_process(pair_pool: PairPool, tmp_path: Path) -> None:
    case = Case(folder=tmp_path / "pair", model=NORMED, budget={"batch_norm": "local"})
    assert_ranks_agree(pair_pool.train(case))
    with pytest.raises(AssertionError):
        assert_every_step_is_close_to_that_of_one_process(case)
