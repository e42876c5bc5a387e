"""Graph files: what is read, and what is refused, in particular pickled content."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.dataset import DataNotFoundError
from pruneyard.workloads.nodes.sources.citeseer import CiteSeer
from pruneyard.workloads.nodes.sources.cora import Cora
from pruneyard.workloads.nodes.sources.npz import Npz

REAL = os.environ.get("PRUNEYARD_DATA", "")  # before the tests' own setting


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns an empty folder that `$PRUNEYARD_DATA` names."""
    monkeypatch.setenv("PRUNEYARD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PRUNEYARD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def arrays(**changes: Any) -> dict[str, Any]:
    """Returns four nodes: 0 -> 1, 1 -> 0, 2 -> 3 and a loop at 3; three words."""
    found = {
        "adj_data": np.ones(4, dtype=np.float32),
        "adj_indices": np.array([1, 0, 3, 3]),
        "adj_indptr": np.array([0, 1, 2, 3, 4]),
        "adj_shape": np.array([4, 4]),
        "attr_data": np.array([1.0, 3.0, 2.0], dtype=np.float32),
        "attr_indices": np.array([0, 2, 1]),
        "attr_indptr": np.array([0, 2, 3, 3, 3]),
        "attr_shape": np.array([4, 3]),
        "labels": np.array([0, 1, 1, 0], dtype=np.int8),
    } | changes
    return {name: array for name, array in found.items() if array is not None}


def written(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    np.savez(path, **arrays(**changes))
    return path


def test_a_file_becomes_a_graph(folder: Path) -> None:
    written(folder / "own.npz")
    graph = Npz(path="own.npz").load()
    assert graph.adjacency.toarray().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert graph.features.toarray().tolist() == [[0.25, 0, 0.75], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert Npz(path="own.npz", normalize=False).load().features.toarray()[0].tolist() == [1, 0, 3]
    assert graph.labels.tolist() == [0, 1, 1, 0]
    assert graph.classes == ("0", "1")
    assert graph.published == {}


def test_names_and_masks_are_read_where_there_are_some(folder: Path) -> None:
    mask = np.array([True, False, True, False])
    written(folder / "own.npz", class_names=np.array(["a", "b"]), train_mask=mask, test_mask=~mask)
    graph = Npz(path="own.npz").load()
    assert graph.classes == ("a", "b")
    assert {name: ids.tolist() for name, ids in graph.published.items()} == {"train": [0, 2], "test": [1, 3]}


def test_equal_graphs_have_equal_fingerprints_and_others_have_not(folder: Path) -> None:
    for name, changes in (("a", {}), ("b", {}), ("c", {"labels": np.array([0, 1, 1, 1])})):
        written(folder / f"{name}.npz", **changes)
    a, b, c = (Npz(path=f"{name}.npz").load().fingerprint for name in "abc")
    assert a == b != c


@each_case(
    ("changes", "message"),
    [
        ({"adj_indptr": None}, "has no adj_indptr; it must be an npz file with the arrays"),
        ({"labels": None}, "labels of .* are missing"),
        ({"labels": np.array([0.5, 1, 1, 0])}, "labels of .* are float64"),
        ({"labels": np.array([0, -1, 1, 0])}, "label of node 1 .* is -1"),
        ({"labels": np.array([1, 2, 2, 1])}, r"labels of .* lie in 1 \.\.\. 2; labels start at 0"),
        ({"labels": np.array([0, 1, 1])}, r"adj of .* is \(4, 4\); it must be \(3, 3\)"),
        ({"attr_shape": np.array([3, 3]), "attr_indptr": np.array([0, 2, 3, 3])}, r"attr of .* is \(3, 3\)"),
        ({"attr_data": np.array([1.0, np.nan, 2.0])}, "attr of .* not finite"),
        ({"adj_indices": np.array([1, 0, 3, 9])}, "adj_.* of .* are not a CSR matrix"),
        ({"class_names": np.array(["a"])}, "class_names of .* there must be at least 2, all different"),
        ({"train_mask": np.array([1, 0, 1, 0])}, "train_mask of .* it must be bool"),
        ({"class_names": np.array(["a", None], dtype=object)}, "cannot be read as npz without unpickling"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(folder: Path, changes: dict[str, Any], message: str) -> None:
    written(folder / "own.npz", **changes)
    with pytest.raises(ValueError, match=message):
        Npz(path="own.npz").load()


def test_a_file_that_is_no_npz_is_named(folder: Path) -> None:
    (folder / "own.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"own\.npz cannot be read as npz"):
        Npz(path="own.npz").load()


def test_nothing_is_unpickled(folder: Path) -> None:
    """An object that would leave a trace if it were."""

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return (Path.touch, (folder / "sprung",))

    np.savez(folder / "own.npz", **arrays(labels=np.array([Trap()] * 4, dtype=object)))
    with pytest.raises(ValueError, match="without unpickling"):
        Npz(path="own.npz").load()
    assert not (folder / "sprung").exists()


def test_known_graphs_are_found_in_either_place(folder: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"^name is 'cora'; none of .* has graphs/cora\.npz or cora\.npz; put .*adj_\*"):
        Cora().load()
    written(folder / "cora.npz")
    written(folder / "graphs" / "citeseer.npz")
    assert (Cora().load().name, CiteSeer().load().name) == ("cora", "citeseer")


@pytest.mark.parametrize("place", [".", "graphs", "Planetoid/Cora/raw"])
def test_planetoids_pickles_are_refused_with_a_word_on_what_is_wanted(folder: Path, place: str) -> None:
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place / "ind.cora.graph").write_bytes(b"never opens")
    with pytest.raises(DataNotFoundError, match=r"are pickles, which pruneyard never opens; put graphs/cora\.npz"):
        Cora().load()


@pytest.mark.parametrize(
    ("source", "nodes", "features", "edges", "rare", "num_rare"),
    [(Cora, 2708, 1433, 5278, "Theory", 351), (CiteSeer, 3312, 3703, 4536, "AI", 249)],
)
def test_the_real_graphs_have_their_published_sizes(
    source: type[Cora], nodes: int, features: int, edges: int, rare: str, num_rare: int
) -> None:
    if not (Path(REAL) / "graphs").is_dir() or not REAL:
        pytest.skip("PRUNEYARD_DATA has no graphs")
    graph = source(root=REAL).load()
    assert graph.adjacency.shape == (nodes, nodes)
    assert graph.num_features == features
    assert graph.adjacency.nnz == 2 * edges
    assert (graph.adjacency != graph.adjacency.T).nnz == 0
    assert int((graph.labels == graph.classes.index(rare)).sum()) == num_rare
