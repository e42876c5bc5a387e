"""Step time of every sparse method at density 0.1 relative to dense, same network, mask updates amortised.

One thread, random images, updates every 100 steps as by default; measurements alternate, the ratio is the median of the rounds'.
Run: python tests/benchmarks/sparse_step.py [METHOD ...], all methods by default; name dense among them.
"""

import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from training_loop import BATCH, random_images

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

ROUNDS = 5
CASES: dict[str, tuple[ModelBuilder, tuple[int, int, int], int]] = {
    "mlp 256-256, 1x28x28": (Mlp(), (1, 28, 28), 600),
    "convnet width 32, 3x32x32": (ConvNet(width=32), (3, 32, 32), 300),
}


def methods(chosen: list[str], *, every: int | None = None) -> dict[str, MaskUpdater]:
    """Returns the methods of these names, at density 0.1 where they have one; updates `every` so many steps, or as by default."""
    built = {}
    for name in chosen:
        method = find("sparse.methods", name)
        fields = {field.name for field in dataclasses.fields(method)}
        built[name] = method(density=0.1) if "density" in fields else method()
        if every is not None and "schedule" in fields:
            schedule = dataclasses.replace(built[name].schedule, every=every)
            built[name] = dataclasses.replace(built[name], schedule=schedule)
    return built


def step_s(method: MaskUpdater, model: ModelBuilder, data: Dataset, num_steps: int) -> float:
    """Seconds per step."""
    recipe = Recipe(budget=Budget(steps=num_steps, batch_size=BATCH, evaluate_every=0))
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)))
        *_, last = train(recipe, model=model, method=method, data=data, seed=0, context=context)
    assert last.outcome is not None
    return last.outcome.train_s / last.step


def main(names_given: list[str]) -> None:
    """Prints milliseconds per step (medians) and the ratios to dense (medians over rounds)."""
    torch.set_num_threads(1)
    for case, (model, shape, num_steps) in CASES.items():
        data, chosen = random_images(shape, 2_560), methods(names_given)
        rounds = [{n: step_s(m, model, data, num_steps) for n, m in chosen.items()} for _ in range(ROUNDS)]
        time_ms = {n: round(1e3 * statistics.median(r[n] for r in rounds), 3) for n in chosen}
        ratios = {n: round(statistics.median(r[n] / r["dense"] for r in rounds), 3) for n in chosen}
        print(json.dumps({"case": case, "ms_per_step": time_ms, "ratio_to_dense": ratios}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or names("sparse.methods"))
