"""Evaluation at the learning rate that a method learned, and where it is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.evaluate import Evaluation, predict_logits, train_network
from pruneyard.workloads.distill.job import DistillJob
from pruneyard.workloads.distill.methods.mtt import MTT
from pruneyard.workloads.distill.methods.random import Random
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.workload import Context

DATA = Digits(max_train=240, max_test=60)
MODEL = ConvNet(width=4, depth=2)
EVALUATION = Evaluation(networks=1, epochs=4, batch_size=16, learned_rate=True)


def test_networks_train_at_the_rate_of_the_student_that_is_reported(tmp_path: Path) -> None:
    method = MTT(ipc=1, iterations=2, experts=1, max_start_epoch=1, steps=2, rate=0.05, rate_lr=1e-3, expert_batch=64)
    job = DistillJob(data=DATA, method=method, model=MODEL, evaluation=EVALUATION)
    last = list(job.run(Context(checkpoints=CheckpointFolder(tmp_path))))[-1]
    assert last.outcome is not None
    (rate,) = (metric.value for metric in last.metrics if (metric.split, metric.name) == ("train", "student_rate"))
    assert rate != pytest.approx(0.05)
    path = tmp_path / "set.safetensors"
    path.write_bytes(last.outcome.files["synthetic_set.safetensors"])
    data = DATA.load()
    test = DeviceSplit(data.test, mean=data.mean, std=data.std)
    for lr, is_same in ((rate, True), (0.01, False)):
        evaluation = replace(EVALUATION, lr=lr)
        network = train_network(
            SyntheticSet.from_file(str(path)), model=MODEL, evaluation=evaluation, num_classes=10, seed=0, index=0
        )
        assert np.array_equal(predict_logits(network, test), last.outcome.predictions["test"].logits) is is_same


def test_a_method_that_learns_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^evaluation has learned_rate: true, and method random learns none; leave"):
        DistillJob(data=DATA, method=Random(ipc=1), model=MODEL, evaluation=EVALUATION)
