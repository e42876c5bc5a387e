"""A recommender on generated click logs: density that moves between fields (`dsl_rec`) against masks of the same budget.

Each method trains once per seed, on the log of that seed. The hidden layer and the classifier stay dense. Printed are test AUC,
accuracy and NLL, mean over seeds with half of the 95% t interval, and the same of the differences from uniform static masks,
paired by seed; then the density that every field ends with.
Run: python tests/benchmarks/recommender.py; --help names the options.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from scipy.special import expit

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.clicks import Clicks
from pruneyard.workloads.metrics.binary import binary_metrics
from pruneyard.workloads.models.recommender import Recommender
from pruneyard.workloads.optimizers.adamw import AdamW
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.dsl_rec import DSLRec
from pruneyard.workloads.sparse.methods.itop import ITOP
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.sparse.update_schedule import LastingSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

RECIPE = Recipe(
    budget=Budget(epochs=10, batch_size=256, evaluate_every=0), optimizer=AdamW(lr=0.003, weight_decay=0.01)
)
SCHEDULE = LastingSchedule(every=50)
METRICS = ("AUC", "accuracy", "NLL")
BASE = "static, uniform"


def methods(density: float) -> dict[str, MaskUpdater]:
    """Returns the methods by what the table calls them."""
    tables_only = {"density": density, "keep_dense": ("hidden", "classifier")}
    return {
        BASE: Static(distribution="uniform", **tables_only),
        "static, ERK": Static(**tables_only),
        "ITOP by gradient, uniform": ITOP(distribution="uniform", schedule=SCHEDULE, **tables_only),
        "dsl_rec": DSLRec(schedule=SCHEDULE, **tables_only),
        "dense": Dense(),
    }


def measured(method: MaskUpdater, seed: int) -> tuple[list[float], dict[str, float]]:
    """Returns the metrics of one training, and the density of each field."""
    with tempfile.TemporaryDirectory() as folder:
        context = Context(checkpoints=CheckpointFolder(Path(folder)))
        data = Clicks(seed=seed).load()
        *_, last = train(RECIPE, model=Recommender(), method=method, data=data, seed=seed, context=context)
    assert last.outcome is not None
    test = last.outcome.predictions["test"]
    auc = binary_metrics(expit(test.logits[:, 1] - test.logits[:, 0]), test.labels == 1)["auroc_positive"]
    named = {metric.name: metric.value for metric in last.metrics if metric.split == "test"}
    densities = {name.split(".")[1]: float(mask.float().mean()) for name, mask in last.outcome.masks.items()}
    return [auc, named["accuracy"], named["nll"]], densities


def interval(values: npt.NDArray[np.float64]) -> str:
    """Returns the mean and half of the 95% t interval, of the rows of `values (seeds, metrics)`."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return " | ".join(f"{mean:.4f} ± {each:.4f}" for mean, each in zip(values.mean(axis=0), half, strict=True))


def main(arguments: argparse.Namespace) -> None:
    """Prints Markdown."""
    torch.set_num_threads(1)
    found: dict[str, npt.NDArray[np.float64]] = {}
    fields: dict[str, list[dict[str, float]]] = {}
    for name, method in methods(arguments.density).items():
        rows = [measured(method, seed) for seed in range(arguments.seeds)]
        found[name] = np.array([values for values, _ in rows])
        fields[name] = [densities for _, densities in rows]
    print("| method | " + " | ".join(METRICS) + " |\n|" + "---|" * (1 + len(METRICS)))
    for name, values in found.items():
        print(f"| {name} | {interval(values)} |")
    for name, values in found.items():
        if name != BASE:
            print(f"| {name} less {BASE} | {interval(values - found[BASE])} |")
    for field, rows_of_field in enumerate(Clicks().cardinalities):
        density = np.mean([densities[str(field)] for densities in fields["dsl_rec"]])
        print(f"field {field}: {rows_of_field} codes, importance {Clicks().importance[field]}, density {density:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="dsl_rec against static masks of the same budget on generated click logs.")
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=10)
    main(parser.parse_args())
