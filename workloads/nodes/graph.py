"""Graphs with node features and labels, as arrays in memory and as tensors on a device."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from pruneyard.workloads.data.dataset import Source
from pruneyard.workloads.nodes.sparse_constant import SparseConstant

Nodes = NDArray[np.int64]
"""Node ids: row numbers in the published file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """An undirected, unweighted graph of N nodes.

    adjacency: (N, N) CSR of ones, symmetric, with an empty diagonal; features: (N, F) CSR float32; labels: (N,) int64 in
    [0, C); published: node ids of the splits that the file defines, if any.
    """

    name: str
    classes: tuple[str, ...]
    adjacency: sparse.csr_array
    features: sparse.csr_array
    labels: NDArray[np.int64]
    published: Mapping[str, Nodes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def num_features(self) -> int:
        return int(self.features.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of a hash of all arrays and class names; the same on every machine."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for matrix in (self.adjacency, self.features):
            # scipy chooses int32 or int64 for indices; the hash must not depend on that choice.
            for part in (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data):
                digest.update(np.ascontiguousarray(part).data)
        for name, part in (("labels", self.labels), *sorted(self.published.items())):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()[:16]


class GraphSource(Source, ABC):
    """Base class of graph sources: frozen dataclasses in `workloads/nodes/sources` whose fields are the spec options."""

    @abstractmethod
    def load(self) -> Graph:  # type: ignore[override]  # a nodes job only ever loads its own kind of source
        """Returns the same graph at every call. Raises `DataNotFoundError`, or `ValueError` for damaged or inconsistent files."""


@dataclass(frozen=True, kw_only=True)
class GraphTensors:
    """The input of a node network.

    features: (N, F); neighbours: (N, N), the normalised adjacency D^-1/2 (A + I) D^-1/2, D the row sums of A + I.

    Reference: Kipf and Welling, Semi-supervised classification with graph convolutional networks (ICLR 2017)
    """

    features: SparseConstant
    neighbours: SparseConstant

    @classmethod
    def of(cls, graph: Graph, *, device: torch.device, dtype: torch.dtype) -> "GraphTensors":
        # In float64, and rounded once at the end. The self-loops make every row sum at least 1, so nothing is divided by 0.
        with_self = graph.adjacency.astype(np.float64) + sparse.eye_array(len(graph), format="csr")
        scale = sparse.diags_array(1 / np.sqrt(with_self.sum(axis=1)))
        return cls(
            features=SparseConstant.of(graph.features, device=device, dtype=dtype),
            neighbours=SparseConstant.of(
                sparse.csr_array(scale @ with_self @ scale), device=device, dtype=dtype
            ),
        )


def undirected(adjacency: sparse.csr_array) -> sparse.csr_array:
    """Returns the symmetric adjacency with a 1 for an edge in either direction, without self-loops and stored zeros."""
    # `!= 0` also drops stored zeros, which are no edges.
    pattern = sparse.csr_array(adjacency != 0)
    both = sparse.coo_array(pattern + pattern.T)
    kept = both.row != both.col
    ones = np.ones(int(kept.sum()), dtype=np.float32)
    found = sparse.csr_array((ones, (both.row[kept], both.col[kept])), shape=both.shape)
    # Also sorts the indices, so that equal graphs have equal fingerprints.
    found.sum_duplicates()
    found.data[:] = 1
    return found


def rows_summing_to_one(features: sparse.csr_array) -> sparse.csr_array:
    """Divides every row by the sum of its absolute values, in float32; rows of zeros stay zero."""
    # Absolute values: features of both signs could add up to 0.
    sums = np.abs(features).sum(axis=1)
    scaled = sparse.csr_array(sparse.diags_array(1 / np.where(sums > 0, sums, 1)) @ features)
    return scaled.astype(np.float32)
