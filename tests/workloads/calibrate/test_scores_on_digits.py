"""Small real trainings: OOD scores of digits outside the training classes, and of noise, without tuning.

Some claims of papers do not hold on these small networks (AUROC against untaught digits, three seeds): knn 0.91 is below
msp 0.94; react 0.95, ash and scale 0.93 and dice 0.90 are below energy 0.95; relative_mahalanobis 0.958 is not above
mahalanobis 0.963.
"""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pruneyard.workloads.calibrate.evidence import Evidence, evidence_of
from pruneyard.workloads.calibrate.score import Score
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Dataset, Split
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.metrics.detection import auroc
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.networks.finished import Blueprint, FinishedNetwork
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

KNOWN = 7  # digits 0 to 6 are the training classes

pytestmark = pytest.mark.slow


def of_classes(split: Split, *, known: bool) -> Split:
    return split.take((split.labels < KNOWN) == known)


def known_digits() -> tuple[Dataset, Split]:
    """Returns the digits of the training classes, and test rows of the other classes."""
    whole = Digits().load()
    parts = {name: of_classes(getattr(whole, name), known=True) for name in ("train", "val", "calib", "test")}
    return dataclasses.replace(whole, classes=whole.classes[:KNOWN], **parts), of_classes(
        whole.test, known=False
    )


@cache
def evidence_of_network(seed: int, folder: Path) -> dict[str, Evidence]:
    """Returns evidence of a network for its training rows, new rows, other digits and noise."""
    data, others = known_digits()
    recipe = Recipe(budget=Budget(epochs=15, batch_size=64, evaluate_every=0, checkpoint_every_s=1e9))
    context = Context(checkpoints=CheckpointFolder(folder / str(seed)))
    *_, last = train(recipe, model=Mlp(), method=Dense(), data=data, seed=seed, context=context)
    assert last.outcome is not None
    blueprint = Blueprint(
        model={"name": "mlp"}, image_shape=data.image_shape, num_outputs=KNOWN, mean=data.mean, std=data.std
    )
    finished = FinishedNetwork.of(blueprint, weights=last.outcome.weights, masks={})
    pixels = np.random.default_rng(seed).integers(0, 256, size=(300, *data.image_shape), dtype=np.uint8)
    noise = Split.from_arrays(pixels, np.zeros(300))
    splits = {"train": data.train, "test": data.test, "others": others, "noise": noise}
    return {name: evidence_of(finished, split) for name, split in splits.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits")


def areas(score: Score, folder: Path) -> tuple[float, float]:
    """Returns AUROC against other digits and against noise, as means over three seeds."""
    found = []
    for seed in range(3):
        rows = evidence_of_network(seed, folder)
        fitted = score.fit(rows["train"], seed=seed)
        known = fitted.score(rows["test"])
        found.append([auroc(known, fitted.score(rows[name])) for name in ("others", "noise")])
    others, noise = np.mean(found, axis=0)
    return float(others), float(noise)


@pytest.mark.parametrize("name", names("calibrate.scores"))
def test_a_score_distinguishes_digits_outside_the_training_classes(name: str, folder: Path) -> None:
    others, noise = areas(find("calibrate.scores", name)(), folder)
    assert others > 0.85
    assert noise > 0.95


def test_energy_odin_gen_and_vim_beat_the_largest_probability_as_their_papers_say(folder: Path) -> None:
    baseline = areas(find("calibrate.scores", "msp")(), folder)
    for name in ("energy", "odin", "gen", "vim"):
        others, noise = areas(find("calibrate.scores", name)(), folder)
        assert others > baseline[0], name
        assert noise > baseline[1], name
