"""Pixels that leave [0, 1] during matching: how they are stored, and when a set is evaluated."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distilling import context, images, states

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.distill.distiller import Distiller, count_evaluations
from pruneyard.workloads.distill.evaluate import Evaluation, mean_metrics
from pruneyard.workloads.distill.job import DistillJob
from pruneyard.workloads.distill.methods.acc_dd import AccDD
from pruneyard.workloads.distill.methods.dm import DM
from pruneyard.workloads.distill.methods.idc import IDC
from pruneyard.workloads.distill.network_training import NetworkTraining
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.workload import Context

NETWORK = NetworkTraining(num_images=16, batch_size=16)
FIELDS: dict[str, Any] = {"ipc": 1, "iterations": 2, "steps": 3, "real_batch": 6, "lr": 100.0, "network": NETWORK}
POOL: dict[str, Any] = {"pool": 1, "pretrain_epochs": 1}


@pytest.mark.parametrize("method", [IDC(**FIELDS), AccDD(**FIELDS, **POOL)])
def test_images_stray_while_a_network_is_in_use_and_are_clamped_in_the_set(method: IDC) -> None:
    at, strayed = context(), []
    for state in states(method, at):
        made = method.synthetic_set(state, at).images
        assert torch.equal(made, images(state).clamp(0, 1))
        strayed.append(not torch.equal(made, images(state)))
    assert strayed[0] is False
    assert strayed[-1] is True


def test_images_of_normalised_methods_are_clamped_at_black_and_white() -> None:
    method, at = DM(ipc=1, iterations=2, real_batch=6, lr=1000.0), context()
    normalised = images(states(method, at)[-1])
    made = method.synthetic_set(states(method, at)[-1], at).images
    pixels = normalised * at.real.std[0] + at.real.mean[0]
    assert float(pixels.min()) < 0 < 1 < float(pixels.max())
    assert torch.equal(made, pixels.clamp(0, 1))


@pytest.mark.parametrize("pixel", [-0.01, 1.5, float("nan")])
def test_a_set_beyond_black_and_white_is_refused(pixel: float) -> None:
    with pytest.raises(ValueError, match=r"^images have pixels from .* to .*; they must lie in \[0, 1\]"):
        SyntheticSet(
            images=torch.full((1, 1, 2, 2), pixel),
            labels=torch.zeros(1, dtype=torch.int64),
            soft_labels=torch.zeros(0, 2),
            mean=(0.0,),
            std=(1.0,),
        )


def test_data_beyond_black_and_white_is_refused_before_the_job_runs() -> None:
    data = Digits(max_train=240, max_test=60).load()
    strayed = Split.from_arrays(np.where(data.train.images == 0, -3.0, data.train.images).astype(np.float32), data.train.labels)
    job = DistillJob(data=Digits(), method=IDC(**FIELDS), model=ConvNet(width=4, depth=2))
    assert job.check(data) == []
    with pytest.raises(ValueError, match=r"training pixels from -3 to .*; they must lie in \[0, 255\]"):
        job.check(replace(data, train=strayed))


@pytest.mark.parametrize(
    ("method", "every", "wanted"),
    [
        (IDC(**FIELDS), 2, [3, 6]),
        (IDC(**FIELDS), 3, [3, 6]),
        (IDC(**FIELDS), 4, [6]),
        (AccDD(**FIELDS, **POOL), 1, [1, 4, 7]),
        (AccDD(**FIELDS, **POOL), 3, [4, 7]),
        (DM(ipc=1, iterations=5, real_batch=6), 2, [2, 4, 5]),
    ],
)
def test_a_set_is_evaluated_when_its_method_has_finished_with_a_network(
    tmp_path: Path, method: Distiller, every: int, wanted: list[int]
) -> None:
    """The first such iteration at or after each multiple; Acc-DD's pool is trained in the first iteration."""
    evaluation = Evaluation(networks=1, epochs=1, batch_size=16)
    job = DistillJob(
        data=Digits(max_train=240, max_test=60),
        method=method,
        model=ConvNet(width=4, depth=2),
        evaluation=evaluation,
        evaluate_every=every,
    )
    assert [progress.step for progress in job.run(Context(checkpoints=CheckpointFolder(tmp_path)))] == wanted
    assert count_evaluations(method, every=every) == len(wanted)
    assert count_evaluations(method, every=0) == 1


def test_the_spread_over_networks_is_absent_with_one() -> None:
    labels, logits = np.array([0, 1, 1, 0]), np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    wrong = logits.copy()
    wrong[:2] = wrong[:2, ::-1]
    assert "accuracy_sd" not in mean_metrics([logits], labels)
    both = mean_metrics([logits, wrong], labels)
    assert (both["accuracy"], both["accuracy_sd"]) == (0.75, pytest.approx(0.125**0.5))
