"""Small real trainings on digits without tuning: effect of mask updates and of DST-EE's exploration bonus."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.sparse.methods.acdc import ACDC
from pruneyard.workloads.sparse.methods.dst_ee import DSTEE
from pruneyard.workloads.sparse.methods.granet import GraNet
from pruneyard.workloads.sparse.methods.grasp import GraSP
from pruneyard.workloads.sparse.methods.itop import ITOP
from pruneyard.workloads.sparse.methods.mest import MEST, Stages
from pruneyard.workloads.sparse.methods.nm import NM
from pruneyard.workloads.sparse.methods.one_shot import OneShot
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.snfs import SNFS
from pruneyard.workloads.sparse.methods.snip import SNIP
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.sparse.methods.synflow import SynFlow
from pruneyard.workloads.sparse.methods.topkast import TopKAST
from pruneyard.workloads.sparse.update_schedule import LastingSchedule, UpdateSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context

OFTEN, LASTING = UpdateSchedule(every=10), LastingSchedule(every=10)

pytestmark = pytest.mark.slow


@cache
def trained(method: MaskUpdater) -> tuple[float, float]:
    """Returns test accuracy and explored share, as means over two seeds."""
    recipe = Recipe(budget=Budget(epochs=15, batch_size=64, evaluate_every=0, checkpoint_every_s=1e9))
    data, found = Digits().load(), []
    for seed in range(2):
        with tempfile.TemporaryDirectory() as folder:
            context = Context(checkpoints=CheckpointFolder(Path(folder)))
            *_, last = train(recipe, model=Mlp(), method=method, data=data, seed=seed, context=context)
        values = {(m.split, m.name): m.value for m in last.metrics}
        found.append((values["test", "accuracy"], values["train", "explored"]))
    accuracy, explored = np.mean(found, axis=0)
    return float(accuracy), float(explored)


def test_every_way_to_choose_weights_beats_fixed_random_ones_at_low_density() -> None:
    fixed, _ = trained(Static(density=0.02))
    methods: dict[str, MaskUpdater] = {
        "dst_ee": DSTEE(density=0.02, schedule=OFTEN),
        "itop": ITOP(density=0.02, schedule=LASTING),
        "granet": GraNet(density=0.02, schedule=LASTING),
        "mest": MEST(density=0.02, schedule=Stages(every=10, sizes=(0.004, 0.002, 0.0))),
        "one_shot": OneShot(density=0.02),
        "lamp": OneShot(density=0.02, ranking="lamp"),
        "snfs": SNFS(density=0.02, schedule=OFTEN),
        "snip": SNIP(density=0.02),
        "grasp": GraSP(density=0.02),
        "synflow": SynFlow(density=0.02),
        "acdc": ACDC(density=0.02),
        "topkast": TopKAST(density=0.02, every=10),
    }
    accuracy = {name: trained(method)[0] for name, method in methods.items()}
    assert min(accuracy.values()) > fixed, (fixed, accuracy)


def test_more_weight_on_exploration_explores_more() -> None:
    explored = [trained(RigL(density=0.05, schedule=OFTEN))[1]]
    for c in (1e-3, 1e-2, 1e-1):
        method = DSTEE(density=0.05, schedule=OFTEN, exploration=c)
        explored.append(trained(method)[1])
    assert explored == sorted(explored), explored


def test_training_more_weights_than_compute_finds_better_ones() -> None:
    accuracy = [trained(TopKAST(density=0.02, every=10, margin=margin))[0] for margin in (0.0, 0.3)]
    assert accuracy[1] > accuracy[0] + 0.1, accuracy


def test_the_best_of_every_sixteen_neighbours_beat_as_many_fixed_random_weights() -> None:
    fixed, _ = trained(Static(density=1 / 16))
    accuracy, explored = trained(NM(n=1, m=16))
    assert accuracy > fixed, (fixed, accuracy)
    assert explored > 1 / 16
    assert trained(NM())[0] > 0.95
