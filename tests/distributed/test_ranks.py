"""Two real processes train as one: compared from equal states step by step, since a tie broken by rounding makes them diverge.

How far apart one step may end: the gradient is a sum over 17 rows of products of activations, added up in another order and
over other blocks of rows, so its entries are off by at most some tens of units of 2^-24 of the sum of the terms' sizes,
which is of order one here: 1e-6. The rate is 0.05, hence 1e-7 for weights; momenta, anchors and means of gradients
carry 1e-6 each. `CLOSE` leaves a factor of five. Shares weighted alike (8 and 9 rows), or a rank that took its own
gradient for all, would be off by 1e-3 and more.
"""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pair import Pair
from rank_trainings import (
    BATCH,
    EVERY,
    NUM_STEPS,
    Case,
    Report,
    build_plugin,
    digits,
    method_of,
    recipe_of,
    train_together,
    training,
)
from torch import Tensor

from pruneyard.testing.trainings import DropoutMlp
from pruneyard.workloads.checkpoint import Checkpoint, CheckpointFolder
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.sparse.pattern import Pattern
from pruneyard.workloads.sparse.patterns.block import Block
from pruneyard.workloads.sparse.patterns.constant_fan_in import ConstantFanIn
from pruneyard.workloads.training.weight_averaging import Averaging
from pruneyard.workloads.workload import InterruptedJobError

CLOSE = 5e-6
BATCH_LEVEL_OBJECTIVES = {name for name in names("objectives") if find("objectives", name).is_batch_level}
"""Objectives of the whole batch: on several ranks they see the rows of one rank, so they differ from one process."""
DEFAULT_METHODS = ("magnitude", "rigl", "snfs", "topkast")
"""Methods of the default tests: masks by magnitude, by gradients, by momenta, and two masks at once."""

pytestmark = pytest.mark.distributed


class PairPool:
    """The current pair of ranks; a killed one is replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._num = folder, 0
        self.pair = self._start()

    def _start(self) -> Pair:
        self._num += 1
        folder = self._folder / str(self._num)
        folder.mkdir()
        return Pair(folder)

    def train(self, case: Case) -> list[Report]:
        """Trains on the current pair."""
        if not self.pair.alive:
            self.pair = self._start()
        return self.pair.run(train_together, case)


@pytest.fixture(scope="module")
def pair_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PairPool]:
    pool = PairPool(tmp_path_factory.mktemp("pairs"))
    yield pool
    pool.pair.kill()


def saved(folder: Path) -> dict[int, Checkpoint]:
    """Returns the checkpoints of a folder, by step."""
    found = {}
    for path in sorted(folder.glob("step-*")):
        single = folder.parent / f"{folder.name}-{path.name}"
        if not single.exists():
            single.mkdir()
            (single / path.name).symlink_to(path)
        checkpoint = CheckpointFolder(single).load(torch.device("cpu"))
        assert checkpoint is not None
        found[checkpoint.step] = checkpoint
    return found


def one_step_of_a_single_process(case: Case, step: int, scratch: Path) -> Checkpoint:
    """Returns the state of one process one step after a checkpoint of the pair."""
    folder = scratch / f"from-{step}"
    folder.mkdir(parents=True)
    if step:
        shutil.copytree(case.folder / f"step-{step:09d}", folder / f"step-{step:09d}")
    next_checkpoint = folder / f"step-{step + 1:09d}"
    with contextlib.suppress(InterruptedJobError):
        training(dataclasses.replace(case, folder=folder), should_stop=next_checkpoint.exists)
    return saved(folder)[step + 1]


def momenta(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {
        f"{index}/{kind}": tensor
        for index, buffers in checkpoint.state["optimizer"]["state"].items()
        for kind, tensor in buffers.items()
        if isinstance(tensor, Tensor)
    }


def assert_close(one: Checkpoint, other: Checkpoint) -> None:
    """Checks that masks and counters are equal, and computed values close."""
    for first, second in ((one.tensors, other.tensors), (momenta(one), momenta(other))):
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, second[name], atol=CLOSE, rtol=CLOSE, msg=name)
            else:
                assert torch.equal(tensor, second[name]), name
    torch.testing.assert_close(one.state["losses"], other.state["losses"], atol=CLOSE, rtol=CLOSE)
    assert one.meta["rule"] == pytest.approx(
        other.meta["rule"], abs=1e-3
    )  # a ratio of small differences of losses
    assert one.meta["train_flops"] == pytest.approx(other.meta["train_flops"], rel=1e-12)
    assert one.meta["mean"] == other.meta["mean"]


def assert_ranks_agree(reports: list[Report]) -> None:
    """Checks that ranks agree at every update, at every step and at the end, and in all they report except times."""
    first, second = reports
    assert first.compared == second.compared
    assert first.metrics == second.metrics


def assert_trains_as_one_process_does(pair_pool: PairPool, case: Case) -> list[Report]:
    reports = pair_pool.train(case)
    assert_ranks_agree(reports)
    assert_every_step_is_close_to_that_of_one_process(case)
    return reports


def assert_every_step_is_close_to_that_of_one_process(case: Case) -> None:
    by_step = saved(case.folder)
    assert list(by_step) == list(range(1, NUM_STEPS + 1))
    for step in range(NUM_STEPS):
        assert_close(by_step[step + 1], one_step_of_a_single_process(case, step, case.folder.parent / "alone"))


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=[] if name in DEFAULT_METHODS else pytest.mark.slow) for name in names("sparse.methods")],
)
def test_two_ranks_train_every_method_as_one_process_does(method: str, pair_pool: PairPool, tmp_path: Path) -> None:
    case = Case(folder=tmp_path / "pair", method=method)
    first, _ = assert_trains_as_one_process_does(pair_pool, case)
    updater = method_of(case)
    due = [step for step in range(NUM_STEPS) if updater.is_due(step, num_steps=NUM_STEPS)]
    compared = [step for step, _ in first.compared]
    assert all(compared.count(step) == 2 for step in due)  # before that step, and after its update
    masks = updater.start({"w": torch.ones(20, 20)}, generator=torch.Generator()).masks
    assert bool(masks) == any(name.startswith("mask/") for name in first.compared[-1][1])


RARELY = ("static", "mest", "dsl_rec", "imp", "granet", "one_shot")


@pytest.mark.parametrize("method", ["set", "rigl", *(pytest.param(name, marks=pytest.mark.slow) for name in RARELY)])
def test_two_ranks_train_sparse_weights_as_one_process_does(method: str, pair_pool: PairPool, tmp_path: Path) -> None:
    """Growth at random, by the dense gradient of both ranks' rows, and between layers; rewinding; masks equal at every update."""
    case = Case(folder=tmp_path / "pair", method=method, execution="sparse")
    first, _ = assert_trains_as_one_process_does(pair_pool, case)
    assert "mask/hidden1.weight:columns" in first.compared[-1][1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lottery_jackpots", "maskllm"])
def test_two_ranks_search_masks_under_sparse_execution_as_one_process_does(
    method: str, pair_pool: PairPool, tmp_path: Path
) -> None:
    """Their layers stay masked: the network computes with other masks than are trained."""
    first, _ = assert_trains_as_one_process_does(pair_pool, Case(folder=tmp_path / "pair", method=method, execution="sparse"))
    assert "forward/hidden1.weight" in first.compared[-1][1]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [Block(shape=(2, 2)), ConstantFanIn(min_salient=0.5)], ids=["block", "constant_fan_in"])
def test_two_ranks_train_under_a_pattern_as_one_process_does(pattern: Pattern, pair_pool: PairPool, tmp_path: Path) -> None:
    assert_trains_as_one_process_does(pair_pool, Case(folder=tmp_path / "pair", pattern=pattern))


@pytest.mark.parametrize("method", ["rigl", "snfs"])  # with and without the optimizer's step at an update
@pytest.mark.parametrize("rule", names("gradients"))
def test_two_ranks_train_under_every_gradient_rule_as_one_process_does(
    rule: str, method: str, pair_pool: PairPool, tmp_path: Path
) -> None:
    case = Case(folder=tmp_path / "pair", method=method, rule=rule)
    first, _ = assert_trains_as_one_process_does(pair_pool, case)
    state_tensors = build_plugin("gradients", rule).start({"w": torch.ones(3)}).tensors
    assert bool(state_tensors) == any(name.startswith("rule/") for name in first.compared[-1][1])


@pytest.mark.parametrize("objective", sorted({*names("objectives")} - BATCH_LEVEL_OBJECTIVES))
def test_two_ranks_minimise_an_objective_of_single_rows_as_one_process_does(
    objective: str, pair_pool: PairPool, tmp_path: Path
) -> None:
    assert_trains_as_one_process_does(
        pair_pool, Case(folder=tmp_path / "pair", method="static", objective=objective)
    )


@pytest.mark.parametrize("objective", sorted(BATCH_LEVEL_OBJECTIVES))
def test_two_ranks_agree_under_an_objective_of_several_rows_at_once(
    objective: str, pair_pool: PairPool, tmp_path: Path
) -> None:
    case = Case(folder=tmp_path / "pair", method="static", objective=objective)
    assert_ranks_agree(pair_pool.train(case))
    with pytest.raises(AssertionError):  # otherwise it is an objective of single rows
        assert_every_step_is_close_to_that_of_one_process(case)


def test_two_ranks_lay_out_gradients_as_one_process_does(pair_pool: PairPool, tmp_path: Path) -> None:
    model = ConvNet(width=4, depth=2, norm="group")
    assert_trains_as_one_process_does(
        pair_pool, Case(folder=tmp_path / "pair", model=model, budget={"channels_last": True})
    )


def test_means_of_weights_are_those_of_one_process(pair_pool: PairPool, tmp_path: Path) -> None:
    average = Averaging(begin=0.5, per_epoch=3)
    case = Case(folder=tmp_path / "pair", method="static", average=average)
    first, _ = assert_trains_as_one_process_does(pair_pool, case)
    assert any(name.startswith("mean/") for name in first.compared[-1][1])


def test_a_network_with_batch_norm_and_dropout_is_the_same_on_both_ranks(
    pair_pool: PairPool, tmp_path: Path
) -> None:
    """It is not the network of one process: ranks normalise and draw for their own rows."""
    case = Case(
        folder=tmp_path / "pair",
        method="set",
        rule="svrg",
        model=DropoutMlp(),
        average=Averaging(begin=0.8),
        budget={"evaluate_every": 1},
    )
    reports = pair_pool.train(case)
    assert_ranks_agree(reports)
    assert any(name.endswith("running_var") for name in reports[0].compared[-1][1])
    assert {split for _, split, _, _ in reports[0].metrics} == {"train", "val", "calib", "test"}
    random = saved(case.folder)[NUM_STEPS].state["random"]
    assert len(random) == 2
    assert not torch.equal(random[0]["cpu"], random[1]["cpu"])


def test_killed_and_resumed_ranks_end_as_uninterrupted_ones_bit_for_bit(pair_pool: PairPool, tmp_path: Path) -> None:
    case = Case(folder=tmp_path / "whole", method="dst_ee", rule="agent", model=DropoutMlp())
    uninterrupted = pair_pool.train(case)
    killed_case = dataclasses.replace(case, folder=tmp_path / "killed")
    pair_pool.pair.begin(train_together, killed_case)
    deadline = time.monotonic() + 30
    while not (killed_case.folder / "step-000000003").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    pair_pool.pair.kill()
    assert max(saved(killed_case.folder)) >= 3
    for step in range(4, NUM_STEPS + 1):  # in case it trained on before the signal
        shutil.rmtree(killed_case.folder / f"step-{step:09d}", ignore_errors=True)
    resumed = pair_pool.train(killed_case)
    assert_ranks_agree(resumed)
    assert resumed[0].compared[0] == next(compared for compared in uninterrupted[0].compared if compared[0] == 3)
    assert resumed[0].compared[-1] == uninterrupted[0].compared[-1]
    assert resumed[0].metrics == uninterrupted[0].metrics
    random = [saved(folder)[NUM_STEPS].state["random"] for folder in (case.folder, killed_case.folder)]
    assert all(torch.equal(a["cpu"], b["cpu"]) for a, b in zip(*random, strict=True))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("rule", ["plain", "svrg"])
def test_one_rank_that_is_asked_to_stop_stops_both(
    rule: str, rank: int, pair_pool: PairPool, tmp_path: Path
) -> None:
    """The fourth question comes after step 4, or, with five steps an epoch, at the start of the epoch before step 1."""
    case = Case(folder=tmp_path / "pair", rule=rule, budget={"checkpoint_every_s": 1e9}, stop_request=(rank, 4))
    reports = pair_pool.train(case)
    expected = 4 if rule == "plain" else 0
    assert [report.stopped_at for report in reports] == [expected, expected]
    assert list(saved(case.folder)) == [expected]
    assert_ranks_agree(reports)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_moves_its_masks_otherwise_is_found_at_that_update(
    rank: int, pair_pool: PairPool, tmp_path: Path
) -> None:
    reports = pair_pool.train(Case(folder=tmp_path / "pair", diverging_rank=rank))
    for report in reports:
        assert report.difference is not None
        step, differing = report.difference
        assert step == EVERY
        assert set(differing[1]) >= {"mask/hidden1.weight", "network/hidden1.weight"}
        assert "mask/hidden2.weight" not in differing[1]


def test_a_batch_with_fewer_rows_than_ranks_is_refused(pair_pool: PairPool, tmp_path: Path) -> None:
    reports = pair_pool.train(Case(folder=tmp_path / "pair", budget={"batch_size": 1}))
    assert all(
        "a batch has 1 rows; it must have at least one for each of the 2" in r.refused for r in reports
    )


def test_both_ranks_skip_the_steps_whose_gradients_overflow_in_float16(pair_pool: PairPool, tmp_path: Path) -> None:
    case = Case(folder=tmp_path / "pair", budget={"precision": "float16"}, first_scale=2.0**20)
    reports = pair_pool.train(case)
    assert_ranks_agree(reports)
    skipped: Any = [value for _, _, name, value in reports[0].metrics if name == "skipped_steps"]
    assert 0 < skipped[-1] < NUM_STEPS


def test_the_shares_of_these_tests_are_uneven_and_their_epochs_shorter_than_the_training() -> None:
    assert BATCH % 2
    assert len(digits().train) // BATCH < NUM_STEPS
    assert recipe_of(Case(folder=Path())).augment.flip
