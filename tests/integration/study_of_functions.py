"""A script of a user, which tests copy and run: studies of functions that no other process can import.

Run: python FILE STUDY OUT ADDRESS, where the address `local` stands for a run without Ray.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pruneyard

EPOCHS = 6


def draw() -> float:
    """Uses the three generators that a checkpoint must restore."""
    return random.random() + float(np.random.random()) + float(torch.rand(1))


def record_start(**about: Any) -> None:
    """Adds a line to the file of the test, if it wants to know where trainings start."""
    if "STARTS_FILE" in os.environ:
        with Path(os.environ["STARTS_FILE"]).open("a") as file:
            file.write(json.dumps({**about, "process": os.getpid()}) + "\n")


def make_walk(scale: float) -> Callable[..., Any]:
    """Returns a training function that only its closure makes complete."""

    def walk(
        lr: float, seed: int, context: pruneyard.FunctionContext, epochs: int = EPOCHS
    ) -> dict[str, float]:
        position, first = torch.zeros(3, dtype=torch.float64), 0
        if (state := context.restore()) is not None:
            position, first = state["position"], state["epoch"]
        record_start(lr=lr, seed=seed, first=first)
        for epoch in range(first + 1, epochs + 1):
            if "STEP_DELAY_FILE" in os.environ:
                time.sleep(float(Path(os.environ["STEP_DELAY_FILE"]).read_text()))
            position = position + lr * (scale + 1e-3 * draw())
            context.report(step=epoch, train_drawn=draw(), accuracy=1 - 1 / (1 + position.mean()))
            context.checkpoint({"position": position, "epoch": epoch})
        return {"test/position": float(position.sum())}

    return walk


def climb(lr: float, context: pruneyard.FunctionContext, epochs: int = EPOCHS) -> None:
    """Rises by its learning rate with every epoch, and keeps the rates of all members that it descends from."""
    height, rates = 0.0, []
    if (state := context.restore()) is not None:
        height, rates = state["height"], state["rates"]
    for epoch in range(len(rates) + 1, epochs + 1):
        height, rates = height + lr, [*rates, lr]
        context.report(step=epoch, height=height, first_rate=rates[0], accuracy=1 - 1 / (1 + height))
        context.checkpoint({"height": height, "rates": rates})


def sum_over_ranks(fails: bool, seed: int, context: pruneyard.FunctionContext) -> dict[str, float]:
    """Reports on rank 0 what both ranks computed, after which rank 1 may fail alone."""
    ranks = context.ranks
    record_start(rank=ranks.rank, pid=os.getpid())
    total = torch.zeros(1)
    for epoch in range(1, 4):
        total += ranks.all_reduce_sum(torch.tensor([10.0**ranks.rank]))
        context.report(step=epoch, total=total, own_rank=ranks.rank)
        context.checkpoint({"total": total})
        if fails and ranks.rank == 1:
            raise LookupError("rank 1 alone has no more rows")
    return {"test/size": ranks.size, "test/total": float(total)}


RATES = {"lr": [0.5, 0.1, 0.01]}
ASHA = {"name": "asha", "metric": "accuracy", "grace": 0.34, "reduction_factor": 2}
PBT = {"name": "pbt", "max_trials": 4, "generations": 3, "metric": "accuracy"}
BOTH_CPUS = {"cpus": 2}  # so that one trial runs after the other, in the same order with Ray and without
STUDIES: dict[str, Callable[..., pruneyard.Results]] = {
    "asha": lambda **where: pruneyard.sweep(
        make_walk(1.0), RATES, seeds=2, scheduler=ASHA, resources=BOTH_CPUS, **where
    ),
    "walk": lambda **where: pruneyard.sweep(make_walk(2.0), {"lr": [0.5, 0.1]}, **where),
    "pbt": lambda **where: pruneyard.sweep(climb, {"lr": {"low": 0.01, "high": 1.0, "log": True}}, search=PBT, **where),
    "ranks": lambda **where: pruneyard.sweep(
        sum_over_ranks, {"fails": [False, True]}, resources={"workers": 2, "cpus": 1}, **where
    ),
}

if __name__ == "__main__":
    study, out, address = sys.argv[1:]
    where = {"local": True} if address == "local" else {"address": address}
    results = STUDIES[study](out=out, **where)
    print(int(results.exit_code))
