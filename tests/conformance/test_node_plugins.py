"""Rules that every plug-in of jobs on nodes must keep. Members are found by their files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pruneyard.testing.plug_in import build
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.nodes.job import NodesBudget, NodesJob
from pruneyard.workloads.nodes.methods.plain import PlainNodes
from pruneyard.workloads.nodes.models.gcn import GCN
from pruneyard.workloads.nodes.node_objective import NodeObjective
from pruneyard.workloads.nodes.sources.block_model import BlockModel
from pruneyard.workloads.nodes.splits.drawn import Drawn
from pruneyard.workloads.plugins import names
from pruneyard.workloads.workload import Context

FAMILIES = [f"nodes.{name}" for name in ("sources", "models", "objectives", "methods", "splits")]
MEMBERS = [(family, name) for family in FAMILIES for name in names(family)]
JOB = NodesJob(
    data=BlockModel(num_nodes=200, minority_fraction=0.2),
    minority="rare",
    method=PlainNodes(),
    split=Drawn(per_class=8, num_val=50, num_calib=20, num_test=50),
    model=GCN(width=3),
    budget=NodesBudget(steps=5, precision="float64"),
)


def objective(name: str) -> NodeObjective:
    built: NodeObjective = build("nodes.objectives", name)
    return built


def two_class_rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([1, 0, 0, 1, 0, 0, 0, 1, 0])


@pytest.mark.parametrize("name", names("nodes.objectives"))
def test_contributions_are_each_of_their_own_node(name: str) -> None:
    """A node's logits change its part alone, which the jackknife relies on; and a constant added to both changes nothing."""
    logits, labels = two_class_rows()
    parts = objective(name).contributions(logits, labels)
    assert parts.shape == (9,)
    assert (parts > 0).all()
    changed_logits = logits.clone()
    changed_logits[4, 1] += 1
    is_changed = objective(name).contributions(changed_logits, labels) != parts
    assert is_changed.nonzero().flatten().tolist() == [4]
    assert torch.allclose(objective(name).contributions(logits + 3, labels), parts, atol=1e-14)


@pytest.mark.parametrize("name", names("nodes.objectives"))
def test_parts_fall_as_the_label_becomes_likelier_and_have_the_gradient_of_differences(name: str) -> None:
    logits, labels = two_class_rows()
    likelier = logits + 0.5 * torch.nn.functional.one_hot(labels, 2)
    parts = [objective(name).contributions(x, labels) for x in (logits, likelier)]
    assert (parts[1] < parts[0]).all()
    assert torch.autograd.gradcheck(
        lambda x: objective(name).contributions(x, labels), (logits.requires_grad_(),)
    )


@pytest.mark.parametrize(
    ("family", "name"), [m for m in MEMBERS if m[0].split(".")[1] in ("models", "objectives", "methods")]
)
def test_a_job_with_it_runs_to_its_end(family: str, name: str, tmp_path: Path) -> None:
    field = family.split(".")[1].removesuffix("s")
    job = dataclasses.replace(JOB, **{field: build(family, name, steps=2)})
    last = list(job.run(Context(checkpoints=CheckpointFolder(tmp_path))))[-1]
    assert last.outcome is not None
    predictions = last.outcome.predictions["test"]
    assert np.isfinite(predictions.logits).all()
    assert predictions.logits.shape == (50, 2)
    metrics = {m.name: m.value for m in last.metrics if m.split == "test"}
    assert {"accuracy", "ece", "eice", "recall_minority", "interval_width"} <= set(metrics)
    assert all(np.isfinite(list(metrics.values())))
