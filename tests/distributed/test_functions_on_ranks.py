"""A training function on two real ranks, stopped after every report: each rank resumes with its own random numbers."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from pair import Pair

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.function.context import FunctionContext
from pruneyard.workloads.function.job import FunctionJob
from pruneyard.workloads.ranks import DistributedRanks
from pruneyard.workloads.user_code.registration import register
from pruneyard.workloads.workload import Context, InterruptedJobError

pytestmark = pytest.mark.distributed

EPOCHS = 4


def walk_together(context: FunctionContext) -> None:
    """Draws other numbers on each rank, and keeps arrays of unsigned numbers, which torch sends between ranks only as signed."""
    ranks = context.ranks
    state = context.restore() or {"position": torch.zeros(2), "epoch": 0, "seen": np.zeros(3, dtype=np.uint16)}
    for epoch in range(state["epoch"] + 1, EPOCHS + 1):
        drawn = [random.random() + np.random.random() for _ in range(ranks.rank + 1)][-1] + torch.rand(2)
        position = state["position"] + ranks.all_reduce_sum(drawn)
        state = {"position": position, "epoch": epoch, "seen": state["seen"] + np.uint16(40_000 // EPOCHS)}
        context.report(step=epoch, total=position.sum(), own=drawn.sum(), seen=state["seen"][0])
        context.checkpoint(state)


def run_on_this_rank(folder: Path, pauses: bool) -> tuple[int, list[tuple[int, str, float]]]:
    """Runs the function to its end; returns how often it was started, and what it reported."""
    job = FunctionJob(function=register(walk_together), seed=3, workers=2)
    context = Context(checkpoints=CheckpointFolder(folder), ranks=DistributedRanks(), should_pause=lambda: pauses)
    num_starts = 0
    while True:
        num_starts += 1
        try:
            progress = list(job.run(context))
        except InterruptedJobError:
            continue
        return num_starts, [(m.step, m.name, m.value) for p in progress for m in p.metrics]


def test_a_function_that_is_stopped_after_every_report_gives_on_each_rank_the_numbers_of_one_that_is_not(
    tmp_path: Path,
) -> None:
    pair = Pair(tmp_path)
    try:
        whole = pair.run(run_on_this_rank, tmp_path / "whole", False)
        paused = pair.run(run_on_this_rank, tmp_path / "paused", True)
    finally:
        pair.kill()
    assert [num_starts for num_starts, _ in whole] == [1, 1]
    assert {num_starts for num_starts, _ in paused} == {EPOCHS + 1}
    first, second = (found for _, found in whole)
    assert paused[0][1] == first  # whose totals have the numbers that rank 1 drew
    assert [row for row in first if row[1] == "own"] != [row for row in second if row[1] == "own"]
    assert first[-1] == (EPOCHS, "seen", 40_000.0)
