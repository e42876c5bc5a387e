"""Rules that every method which ranks features must keep. Members are found by their files."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pruneyard.testing.plug_in import build
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.feature_ranking import FILE, read_order
from pruneyard.workloads.data.flat_features import flattened
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.features.ranker import FeatureRanker
from pruneyard.workloads.plugins import names
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress

FAMILY = "features.methods"
NUM_FEATURES = 64

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


@cache
def digits() -> Dataset:
    """Returns 90 rows of features (N, 64), with labels."""
    return flattened(Digits(max_train=120).load())


def last_progress(name: str, data: Dataset, folder: Path, *, should_pause: Callable[[], bool] = lambda: False) -> Progress:
    """Returns the last progress of a ranking, which resumes as often as it pauses."""
    ranker: FeatureRanker = build(FAMILY, name)
    while True:
        context = Context(checkpoints=CheckpointFolder(folder), load_data=lambda _: data, should_pause=should_pause)
        try:
            *_, last = ranker.rank(data, seed=3, context=context)
        except InterruptedJobError:
            continue
        return last


def strength(name: str, data: Dataset, folder: Path, *, should_pause: Callable[[], bool] = lambda: False) -> bytes:
    outcome = last_progress(name, data, folder, should_pause=should_pause).outcome
    assert outcome is not None
    return outcome.files[FILE]


def order(content: bytes, folder: Path) -> npt.NDArray[np.int64]:
    file = folder / FILE
    file.write_bytes(content)
    return read_order(file)


def test_every_feature_has_a_place_and_progress_ends_where_it_said(name: str, tmp_path: Path) -> None:
    last = last_progress(name, digits(), tmp_path / "run")
    assert last.outcome is not None
    assert sorted(order(last.outcome.files[FILE], tmp_path)) == list(range(NUM_FEATURES))
    flops, steps = build(FAMILY, name).expected_work(digits())
    assert flops >= 0
    assert steps >= 0
    assert last.step == last.num_steps
    if steps:
        assert last.num_steps == steps


def test_depends_on_the_seed_and_the_features_alone(name: str, tmp_path: Path) -> None:
    """Ranks again with other labels, in reverse order of classes, and another state of the global generators."""
    data = digits()
    images = data.train.images.copy()
    first = strength(name, data, tmp_path / "first")
    relabelled = replace(data, train=replace(data.train, labels=data.train.labels[::-1].copy()))
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        again = strength(name, relabelled, tmp_path / "again")
    assert again == first
    np.testing.assert_array_equal(data.train.images, images)


def test_a_ranking_that_pauses_at_every_report_is_the_undisturbed_one(name: str, tmp_path: Path) -> None:
    whole = strength(name, digits(), tmp_path / "whole")
    assert strength(name, digits(), tmp_path / "paused", should_pause=lambda: True) == whole
