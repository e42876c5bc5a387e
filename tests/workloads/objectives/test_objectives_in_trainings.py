"""Small real trainings without tuning: effect of the objectives on the calibration of networks that overfit.

Three seeds each, all of which must agree. Networks that do not overfit are another matter: on 240 clean digits cross-entropy
has a test ECE of 0.04, and label smoothing (0.10), mixup (0.06) and CutMix (0.13) are too soft for them.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Dataset, Split
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.interfaces import Objective, RateSchedule
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.objectives.cape import CaPE
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.objectives.focal import Focal
from pruneyard.workloads.objectives.label_smoothing import LabelSmoothing
from pruneyard.workloads.objectives.mixup import Mixup
from pruneyard.workloads.schedules.constant import Constant
from pruneyard.workloads.schedules.cosine import Cosine
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context, Progress

pytestmark = pytest.mark.slow

SEEDS = range(3)


def finished(
    objective: Objective, data: Dataset, schedule: RateSchedule, *, epochs: int, seed: int, folder: Path
) -> Progress:
    """Returns the end of a training of an MLP with the usual optimizer."""
    budget = Budget(epochs=epochs, batch_size=64, evaluate_every=0, checkpoint_every_s=1e9)
    *_, last = train(
        Recipe(budget=budget, objective=objective, schedule=schedule),
        model=Mlp(),
        method=Dense(),
        data=data,
        seed=seed,
        context=Context(checkpoints=CheckpointFolder(folder)),
    )
    return last


@cache
def noisy_digits() -> Dataset:
    """Resamples three labels in ten in every split: memorised training labels are wrong elsewhere."""
    data, draws = Digits().load(), np.random.default_rng(0)

    def noisy(split: Split) -> Split:
        labels, chosen = split.labels.copy(), draws.random(len(split)) < 0.3
        labels[chosen] = draws.integers(0, 10, chosen.sum())
        return replace(split, labels=labels)

    return replace(data, train=noisy(data.train), val=noisy(data.val), test=noisy(data.test))


def errors(objective: Objective, folder: Path) -> list[float]:
    """Returns test ECE by seed."""
    found = []
    for seed in SEEDS:
        options = {"epochs": 40, "seed": seed, "folder": folder / str(seed)}
        last = finished(objective, noisy_digits(), Cosine(), **options)  # type: ignore[arg-type]
        found += [m.value for m in last.metrics if (m.split, m.name) == ("test", "ece")]
    return found


def test_softer_objectives_lower_the_calibration_error_of_networks_that_learn_noise_by_heart(
    tmp_path: Path,
) -> None:
    plain = errors(CrossEntropy(), tmp_path / "plain")
    assert min(plain) > 0.1  # else there is nothing to lower
    for name, objective in {"focal": Focal(), "smoothed": LabelSmoothing(), "mixup": Mixup()}.items():
        softer = errors(objective, tmp_path / name)
        assert all(found < before for found, before in zip(softer, plain, strict=True)), name


SIZES = {"train": 1000, "val": 100, "calib": 100, "test": 2000}


def uniform_scenario() -> tuple[Dataset, np.ndarray]:
    """Returns rows of known, uniform class probabilities, encoded by four of 24 numbers, and those of the test rows."""
    draws = np.random.default_rng(0)
    splits, probabilities = {}, {}
    for name, num_rows in SIZES.items():
        p = draws.random(num_rows)
        images = draws.normal(128, 40, (num_rows, 1, 1, 24)).astype(np.float32)
        images[:, 0, 0, :4] = draws.normal(255 * p[:, None], 5, (num_rows, 4))
        splits[name] = Split.from_arrays(images, draws.random(num_rows) < p)
        probabilities[name] = p
    scaled = splits["train"].images / 255
    data = Dataset(
        name="uniform", classes=("0", "1"), mean=(float(scaled.mean()),), std=(float(scaled.std()),), **splits
    )
    return data, probabilities["test"]


def test_empirical_targets_keep_probabilities_nearer_to_the_true_ones(tmp_path: Path) -> None:
    """At the end of equal trainings. It stays above the error of the network after the warm epochs alone, which the paper's
    protocol falls below: that one has a smaller rate and keeps the best checkpoint."""
    data, true = uniform_scenario()
    found: dict[str, list[float]] = {"plain": [], "cape": []}
    for name, objective in {"plain": CrossEntropy(), "cape": CaPE(warmup_epochs=4)}.items():
        for seed in SEEDS:
            folder = tmp_path / f"{name}-{seed}"
            last = finished(objective, data, Constant(), epochs=40, seed=seed, folder=folder)
            assert last.outcome is not None
            logits = last.outcome.predictions["test"].logits.astype(np.float64)
            probability = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
            found[name].append(float(((probability - true) ** 2).mean()))
    assert all(cape < plain for cape, plain in zip(found["cape"], found["plain"], strict=True))
