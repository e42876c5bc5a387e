from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from small_graphs import CPU, small_graph

from pruneyard.testing.cases import each_case
from pruneyard.workloads.nodes.graph import Graph, GraphTensors, rows_summing_to_one, undirected
from pruneyard.workloads.nodes.models.gcn import GCN
from pruneyard.workloads.nodes.models.mlp import NodeMlp
from pruneyard.workloads.seeding import global_stream


def path_of_three() -> Graph:
    """Returns the graph 0 - 1 - 2."""
    edges = sparse.csr_array(np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32))
    features = sparse.csr_array(np.array([[1, 0], [0, 2], [3, 1]], dtype=np.float32))
    return Graph(
        name="path",
        classes=("a", "b"),
        adjacency=undirected(edges),
        features=features,
        labels=np.array([0, 1, 0]),
    )


def tensors(graph: Graph) -> GraphTensors:
    return GraphTensors.of(graph, device=CPU, dtype=torch.float64)


def network(model: GCN | NodeMlp, graph: Graph) -> torch.nn.Module:
    with global_stream(3, "init"):
        return model.build(num_features=graph.num_features, num_classes=2).double()


def test_the_normalised_adjacency_by_hand() -> None:
    """Degrees with loops are 2, 3, 2."""
    found = tensors(path_of_three()).neighbours.matrix.to_dense()
    side = 1 / np.sqrt(6)
    expected = [[1 / 2, side, 0], [side, 1 / 3, side], [0, side, 1 / 2]]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-15)


def test_a_gcn_is_its_formula_on_dense_matrices() -> None:
    graph = small_graph()
    given = tensors(graph)
    built = network(GCN(width=5), graph).eval()
    a, x = given.neighbours.matrix.to_dense(), given.features.matrix.to_dense()
    w1, w2, b1, b2 = built.parameters()
    expected = a @ (a @ x @ w1 + b1).relu() @ w2 + b2
    assert torch.allclose(built(given), expected, atol=1e-12)


def test_without_edges_a_gcn_is_an_mlp() -> None:
    graph = small_graph()
    alone = replace(graph, adjacency=sparse.csr_array(graph.adjacency.shape, dtype=np.float32))
    with_edges, without = (network(model, graph).eval() for model in (GCN(), NodeMlp()))
    assert torch.equal(with_edges(tensors(alone)), without(tensors(alone)))
    assert not torch.allclose(with_edges(tensors(graph)), without(tensors(graph)))
    assert torch.equal(without(tensors(graph)), without(tensors(alone)))


def test_dropout_is_of_training_alone() -> None:
    graph = small_graph()
    built = network(GCN(dropout=0.5), graph)
    assert not torch.equal(built(tensors(graph)), built(tensors(graph)))
    built.eval()
    assert torch.equal(built(tensors(graph)), built(tensors(graph)))


def test_renaming_nodes_renames_outputs() -> None:
    graph = small_graph()
    order = np.random.default_rng(0).permutation(len(graph))
    renamed = replace(
        graph,
        adjacency=sparse.csr_array(graph.adjacency[order][:, order]),
        features=sparse.csr_array(graph.features[order]),
        labels=graph.labels[order],
    )
    built = network(GCN(), graph).eval()
    assert torch.allclose(built(tensors(renamed)), built(tensors(graph))[order], atol=1e-13)


def test_edges_lose_direction_weight_and_loops() -> None:
    given = np.array([[5, 2, 0], [0, 0, 0], [-1, 0, 0]], dtype=np.float32)
    expected = [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert undirected(sparse.csr_array(given)).toarray().tolist() == expected


def test_rows_of_features_sum_to_one_and_empty_ones_stay() -> None:
    found = rows_summing_to_one(sparse.csr_array(np.array([[1.0, 3.0], [0.0, 0.0]])))
    assert found.toarray().tolist() == [[0.25, 0.75], [0, 0]]


@each_case(
    ("fields", "message"),
    [({"width": 0}, "width is 0"), ({"depth": 0}, "depth is 0"), ({"dropout": 1.0}, r"dropout is 1\.0")],
)
@each_case("model", [GCN, NodeMlp])
def test_sizes_that_no_network_has_are_refused(
    model: type[GCN], fields: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model(**fields)  # type: ignore[arg-type]
