"""Rankings of features: the strength of neurons by hand, what a ranking must not depend on, and the data source that reads it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.feature_ranking import FILE, read_order, to_bytes
from pruneyard.workloads.data.flat_features import flattened
from pruneyard.workloads.data.sources.breast_cancer import BreastCancer
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.data.sources.top_features import TopFeatures
from pruneyard.workloads.features.job import FeaturesJob
from pruneyard.workloads.features.methods.quickselection import QuickSelection, strengths
from pruneyard.workloads.features.methods.random import Random
from pruneyard.workloads.features.ranker import FeatureRanker
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.job import SparseJob
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.training.recipe import Budget
from pruneyard.workloads.workload import Context, Outcome

SHORT = QuickSelection(epochs=3, width=64)


def ranked(method: FeatureRanker, data: Dataset, folder: Path, *, seed: int = 0) -> Outcome:
    """Returns the outcome of a job, with its ranking written to the folder."""
    job = FeaturesJob(data=Digits(), method=method, seed=seed)
    *_, last = job.run(Context(checkpoints=CheckpointFolder(folder / "checkpoints"), load_data=lambda _: data))
    assert last.outcome is not None
    folder.joinpath(FILE).write_bytes(last.outcome.files[FILE])
    return last.outcome


def test_strength_is_the_sum_of_magnitudes_of_outgoing_weights() -> None:
    """By hand: three inputs, two hidden units."""
    weights = {"hidden1.weight": torch.tensor([[1.0, 0.0, -2.0], [-3.0, 0.5, 1.0]])}
    assert strengths(weights).tolist() == [4.0, 0.5, 3.0]


def test_the_order_is_from_strong_to_weak_and_keeps_ties(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_bytes(to_bytes(np.array([1.0, 3.0, 1.0, 2.0])))
    assert read_order(file).tolist() == [1, 3, 0, 2]
    file.write_bytes(b"no ranking")
    with pytest.raises(ValueError, match="is no ranking of features"):
        read_order(file)


def test_features_that_never_vary_come_last(tmp_path: Path) -> None:
    """Digits have pixels that are always 0: their weights get no gradient, and mask updates drop them."""
    data = Digits(max_train=600).load()
    never = np.flatnonzero(flattened(data).train.images.std(axis=0) == 0)
    assert len(never) >= 3
    ranked(replace(SHORT, epochs=10), data, tmp_path)
    places = np.argsort(read_order(tmp_path / FILE))
    assert places[never].mean() > 40
    assert places[never].min() > 20


def test_stored_values_rank_as_masks_do(tmp_path: Path) -> None:
    data = Digits(max_train=300).load()
    found = {}
    for execution in ("masked", "sparse"):
        (tmp_path / execution).mkdir()
        method = replace(SHORT, connections=3.0, execution=execution)
        found[execution] = ranked(method, data, tmp_path / execution)
    masked, sparse = (strengths(outcome.weights) for outcome in found.values())
    np.testing.assert_allclose(masked, sparse, rtol=1e-3)
    size = 64 * 64
    assert found["sparse"].num_active == 2 * 3 * (64 + 64) + 64 + 64  # both layers, and biases
    assert found["sparse"].num_parameters == 2 * size + 64 + 64


def test_top_features_are_the_columns_of_the_ranking(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_bytes(to_bytes(np.arange(64)))
    base = Digits().load()
    top = TopFeatures(base=Digits(), num=3, path=str(file)).load()
    np.testing.assert_array_equal(top.test.images, base.test.images.reshape(-1, 64)[:, [63, 62, 61]] / np.float32(255))
    assert top.image_shape == (3,)
    assert not top.pixels
    assert len(top.mean) == len(top.std) == 3
    np.testing.assert_array_equal(top.train.labels, base.train.labels)


def test_columns_of_a_table_keep_their_scale(tmp_path: Path) -> None:
    base = BreastCancer().load()
    flat = flattened(base)
    np.testing.assert_array_equal(flat.train.images, base.train.images)
    np.testing.assert_allclose(flat.mean, base.mean, rtol=1e-6)
    assert flat.std == base.std


def test_a_ranking_of_other_data_and_too_many_features_are_refused(tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_bytes(to_bytes(np.arange(64)))
    with pytest.raises(ValueError, match="ranks 64 features, but the data has 30"):
        TopFeatures(base=BreastCancer(), num=3, path=str(file)).load()
    with pytest.raises(ValueError, match="num is 65; it must be at most 64"):
        TopFeatures(base=Digits(), num=65, path=str(file)).load()


@pytest.mark.slow
def test_the_first_pixels_of_digits_classify_better_than_random_ones(tmp_path: Path) -> None:
    """Mean over three rankings, ten of 64 pixels; the direction that the paper reports."""
    accuracy = dict.fromkeys(("quickselection", "random"), 0.0)
    for seed in range(3):
        for name, method in (("quickselection", QuickSelection(epochs=20, width=200)), ("random", Random())):
            folder = tmp_path / f"{name}{seed}"
            folder.mkdir()
            ranked(method, Digits().load(), folder, seed=seed)
            job = SparseJob(
                data=TopFeatures(base=Digits(), num=10, path=str(folder / FILE)),
                model=Mlp(width=64, depth=1),
                method=Dense(),
                optimizer=SGD(lr=0.05, momentum=0.9),
                budget=Budget(epochs=20, batch_size=64, evaluate_every=0),
            )
            *_, last = job.run(Context(checkpoints=CheckpointFolder(folder / "trained")))
            accuracy[name] += sum(m.value for m in last.metrics if (m.split, m.name) == ("test", "accuracy")) / 3
    assert accuracy["quickselection"] > accuracy["random"]
