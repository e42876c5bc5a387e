"""Rules that every source of images or graphs must keep. Members are found by their files."""

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import cache
from typing import Any

import numpy as np
import pytest

from pruneyard.testing.plug_in import build
from pruneyard.testing.samples import fingerprint, load, process_with_other_hashes, sample_files
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.nodes.graph import Graph
from pruneyard.workloads.plugins import names

IMAGES = [("data.sources", name) for name in names("data.sources")]
GRAPHS = [("nodes.sources", name) for name in names("nodes.sources")]
SMALL = {"max_train": 400, "max_test": 60}  # of publishers' rows, where a source can be told so

every_image_source = pytest.mark.parametrize(("family", "name"), IMAGES)
every_graph_source = pytest.mark.parametrize(("family", "name"), GRAPHS)
every_source = pytest.mark.parametrize(("family", "name"), [*IMAGES, *GRAPHS])


@pytest.fixture(scope="module", autouse=True)
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with sample_files(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def other_process(samples: None) -> Iterator[Executor]:
    with process_with_other_hashes() as pool:
        yield pool


@cache
def load_source(family: str, name: str) -> Any:
    return load(build(family, name, **SMALL))


@every_image_source
def test_splits_have_images_of_one_shape_and_labels_of_known_classes(family: str, name: str) -> None:
    data: Dataset = load_source(family, name)
    assert data.name == name
    assert len(data.train) > 0
    assert len(data.test) > 0
    assert len(data.mean) == len(data.std) == data.image_shape[0]
    assert np.isfinite([*data.mean, *data.std]).all()
    assert min(data.std) > 0
    for split in (data.train, data.val, data.calib, data.test):
        assert split.images.shape[1:] == data.image_shape
        assert split.images.dtype == data.test.images.dtype or data.train.images.dtype == np.float32
        assert np.isfinite(split.images).all()
        assert ((split.labels >= 0) & (split.labels < data.num_classes)).all()
    assert set(data.train.labels.tolist()) == set(range(data.num_classes)), "every class must have training rows"


@every_image_source
def test_no_row_is_in_two_splits(family: str, name: str) -> None:
    data: Dataset = load_source(family, name)
    cut_from_one_file = [data.val, data.calib, *([] if build(family, name).renumbers_train else [data.train])]
    rows = np.concatenate([split.row_ids for split in cut_from_one_file])
    assert len(np.unique(rows)) == len(rows)
    for split in (data.train, data.test):
        assert len(np.unique(split.row_ids)) == len(split)


@every_graph_source
def test_a_graph_has_edges_without_direction_and_labels_of_known_classes(family: str, name: str) -> None:
    graph: Graph = load_source(family, name)
    assert graph.name == name
    assert graph.adjacency.shape == (len(graph), len(graph))
    assert (graph.adjacency.data == 1).all()
    assert (graph.adjacency != graph.adjacency.T).nnz == 0
    assert graph.adjacency.diagonal().sum() == 0
    assert graph.features.shape[0] == len(graph)
    assert graph.features.dtype == np.float32
    assert np.isfinite(graph.features.data).all()
    assert set(graph.labels.tolist()) == set(range(graph.num_classes)), "every class must have nodes"
    for nodes in graph.published.values():
        assert len(np.unique(nodes)) == len(nodes)
        assert ((nodes >= 0) & (nodes < len(graph))).all()


@every_source
def test_equal_settings_load_equal_data_here_and_in_another_process(family: str, name: str, other_process: Executor) -> None:
    """The fingerprint names data in run keys, so it may depend on nothing else: not on the order of a set, say."""
    first, source = load_source(family, name), build(family, name, **SMALL)
    assert load(source).fingerprint == first.fingerprint
    assert other_process.submit(fingerprint, source).result(timeout=120) == first.fingerprint
