"""Rules that every kind of job must keep with shared data: read it in place and do not change it."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Source
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.distill.evaluate import Evaluation
from pruneyard.workloads.distill.job import DistillJob
from pruneyard.workloads.distill.methods.dm import DM
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.nodes.graph import Graph
from pruneyard.workloads.nodes.job import NodesBudget, NodesJob
from pruneyard.workloads.nodes.methods.calirare import Calirare
from pruneyard.workloads.nodes.sources.block_model import BlockModel
from pruneyard.workloads.nodes.splits.drawn import Drawn
from pruneyard.workloads.sparse.job import SparseJob
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.training.recipe import Budget
from pruneyard.workloads.workload import Context

SMALL = Digits(max_train=200, max_test=60)


def in_shared_memory(data: Any) -> Any:
    """Returns a read-only copy without cached values, as Ray's object store hands it out."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(replace(data), protocol=5, buffer_callback=buffers.append)
    assert buffers
    return pickle.loads(content, buffers=[bytes(buffer.raw()) for buffer in buffers])


JOBS = {
    "sparse": SparseJob(
        data=SMALL, model=Mlp(width=16), method=RigL(density=0.5), budget=Budget(steps=20, batch_size=32)
    ),
    "distill": DistillJob(
        data=SMALL,
        model=Mlp(width=16),
        method=DM(ipc=2, iterations=3),
        evaluation=Evaluation(networks=1, max_steps=5),
    ),
    "nodes": NodesJob(
        data=BlockModel(num_nodes=300, minority_fraction=0.2),
        minority="rare",
        method=Calirare(steps=3),
        split=Drawn(per_class=8, num_val=50, num_calib=20, num_test=50),
        budget=NodesBudget(steps=5),
    ),
}


@pytest.mark.parametrize("kind", JOBS)
def test_data_that_cannot_be_written_gives_the_numbers_of_data_that_can(kind: str, tmp_path: Path) -> None:
    job: Any = JOBS[kind]
    writable = job.data.load()
    if isinstance(writable, Graph):
        assert not writable.features.has_sorted_indices  # as in real graphs, so sorting them in place would write
    shared = in_shared_memory(writable)
    before = in_shared_memory(writable).fingerprint
    metrics = []
    for name, data in (("own", writable), ("shared", shared)):

        def load_data(source: Source, data: Any = data) -> Any:
            assert source == job.data
            return data

        context = Context(checkpoints=CheckpointFolder(tmp_path / name), load_data=load_data)
        progress = list(job.run(context))
        metrics.append([(m.step, m.split, m.name, m.value) for part in progress for m in part.metrics])
    assert metrics[0] == metrics[1]
    assert len(metrics[0]) > 10
    assert [in_shared_memory(data).fingerprint for data in (writable, shared)] == [before, before]
