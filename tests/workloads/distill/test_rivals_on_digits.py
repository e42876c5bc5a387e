"""Small real distillations without tuning: accuracy of a new network with one image per class, mean of three seeds.

MTT and FRePo beat random images. At this size RDED and SRe2L do not, so that nothing of the kind is asserted: measured once,
random 0.62, RDED 0.60, SRe2L 0.34, with DWA 0.63. Both are made for many images per class and students that ask the teacher
about every view; their published figures at one image per class are low as well.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.distill.distiller import DistillContext, Distiller, RealSet
from pruneyard.workloads.distill.evaluate import Evaluation, predict_logits, train_network
from pruneyard.workloads.distill.methods.frepo import FRePo
from pruneyard.workloads.distill.methods.mtt import MTT
from pruneyard.workloads.distill.methods.random import Random
from pruneyard.workloads.distill.network_pool import NetworkPool
from pruneyard.workloads.models.convnet import ConvNet

MODEL = ConvNet(width=8, depth=2)
AUGMENT = "color_crop_cutout_scale_rotate"
EVALUATION = Evaluation(networks=1, epochs=200, augment="color_crop_scale_rotate")
PATHS: dict[str, Any] = {"experts": 4, "max_start_epoch": 4, "expert_lr": 0.05, "expert_batch": 32, "rate_lr": 1e-4, "rate": 0.05}

pytestmark = pytest.mark.slow


@cache
def digits() -> Dataset:
    return Digits(max_train=600, max_test=300).load()


def accuracy(method: Distiller) -> float:
    """Returns the accuracy on the test split."""
    data, found = digits(), []
    test = DeviceSplit(data.test, mean=data.mean, std=data.std)
    split = DeviceSplit(data.train, mean=data.mean, std=data.std)
    real = RealSet.of(split, mean=data.mean, std=data.std, num_classes=10)
    for seed in range(3):
        at = DistillContext(real=real, model=MODEL, seed=seed)
        state = method.start(at)
        for iteration in range(method.num_iterations):
            state = method.iterate(state, iteration, at)
        made = method.synthetic_set(state, at)
        network = train_network(made, model=MODEL, evaluation=EVALUATION, num_classes=10, seed=seed, index=0)
        found.append((predict_logits(network, test).argmax(1) == data.test.labels).mean())
    return float(np.mean(found))


@cache
def of_random_images() -> float:
    return accuracy(Random(ipc=1))


def test_matched_paths_beat_random_images() -> None:
    method = MTT(ipc=1, iterations=30, steps=10, lr=30.0, augment=AUGMENT, **PATHS)
    assert accuracy(method) > of_random_images() + 0.05


def test_fitted_features_beat_random_images() -> None:
    method = FRePo(ipc=1, iterations=150, real_batch=256, lr=1e-2, flip=False, network_pool=NetworkPool(members=4))
    assert accuracy(method) > of_random_images() + 0.05
