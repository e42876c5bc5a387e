"""The job of kind `nodes`: classifies nodes of a graph as rare class or rest, with intervals for each probability."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from pruneyard.workloads.fields import NOT_IDENTITY
from pruneyard.workloads.metrics.classification import Floats, reliability_of_logits, standard_metrics
from pruneyard.workloads.nodes.eice import individual_errors, individual_errors_as_released
from pruneyard.workloads.nodes.fitting import DTYPES, Fitting, Parts
from pruneyard.workloads.nodes.graph import Graph, GraphSource, Nodes
from pruneyard.workloads.nodes.jackknife import Intervals, Jackknife
from pruneyard.workloads.nodes.models.gcn import GCN
from pruneyard.workloads.nodes.node_method import NodeMethod, Readout, log_softmax
from pruneyard.workloads.nodes.node_network import NodeModel
from pruneyard.workloads.nodes.node_objective import NodeObjective
from pruneyard.workloads.nodes.objectives.weighted import Weighted
from pruneyard.workloads.nodes.rare_metrics import rare_metrics
from pruneyard.workloads.nodes.splits.drawn import Drawn
from pruneyard.workloads.nodes.splitting import NodeSplitter
from pruneyard.workloads.parents import Predictions
from pruneyard.workloads.plugins import Plugin, Settings, table_of
from pruneyard.workloads.workload import (
    Context,
    CurvePoint,
    InterruptedJobError,
    Metric,
    Outcome,
    Progress,
    RateLimitedCheck,
)

__all__ = ["NodesJob"]


@dataclass(frozen=True, kw_only=True)
class NodesBudget:
    """Training budget. steps: full-batch training steps on all labelled nodes; a method may add tuning steps."""

    steps: int = 2000
    precision: Literal["float32", "float64"] = "float32"
    evaluate_every: int = field(default=0, metadata=NOT_IDENTITY)  # steps; 0: only at the end
    checkpoint_every_s: float = field(default=30.0, metadata=NOT_IDENTITY)  # 0: after every step

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be 1 or more")
        for name in ("evaluate_every", "checkpoint_every_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class NodesOptimizer:
    """Adam on the loss plus l2 / 2 times the squared parameter norm."""

    lr: float = 1e-3
    l2: float = 5e-4

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if self.l2 < 0:
            raise ValueError(f"l2 is {self.l2}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class NodesJob:
    """The resolved spec of a nodes job. Defaults are those of CALIRARE's released code.

    minority: name or number of the graph's class that becomes label 1; all others become label 0.
    jackknife: options of the node intervals, computed at the end of every job and during tuning by methods that use them.
    """

    data: Annotated[GraphSource, Plugin("nodes.sources")]
    minority: str | int
    method: Annotated[NodeMethod, Plugin("nodes.methods")]
    objective: Annotated[NodeObjective, Plugin("nodes.objectives")] = Weighted()
    model: Annotated[NodeModel, Plugin("nodes.models")] = GCN()
    split: Annotated[NodeSplitter, Plugin("nodes.splits")] = Drawn()
    optimizer: NodesOptimizer = NodesOptimizer()
    budget: NodesBudget = NodesBudget()
    jackknife: Jackknife = Jackknife()
    seed: int = 0
    leaves: ClassVar[tuple[str, ...]] = ("predictions",)
    examples: ClassVar[tuple[Settings, ...]] = (
        {
            "data": {"name": "block_model", "num_nodes": 200},
            "minority": "rare",
            "method": {"name": "plain"},
            "split": {"name": "drawn", "per_class": 5, "num_val": 50, "num_calib": 50, "num_test": 60},
            "budget": {"steps": 6, "evaluate_every": 2},
        },
    )

    def run(self, context: Context) -> Iterator[Progress]:
        """Resumes from the newest valid checkpoint of the context, or starts."""
        graph: Graph = context.load_data(self.data)  # type: ignore[assignment]  # a graph source loads a graph
        minority = class_number(self.minority, graph)
        nodes = self.split.split(graph, minority=minority, seed=self.seed)
        labels = (graph.labels == minority).astype(np.int64)
        on_device = {name: torch.from_numpy(ids).to(context.device) for name, ids in nodes.items()}
        fitting = Fitting.start(
            self._parts(),
            model=self.model,
            graph=graph,
            labels=torch.from_numpy(labels).to(context.device),
            nodes=on_device,
            dtype=DTYPES[self.budget.precision],
        )
        saved = context.checkpoints.load(context.device)
        if saved is not None:
            fitting.restore(saved, data=graph.fingerprint)
        should_stop = RateLimitedCheck(context.should_stop)

        def save() -> None:
            context.checkpoints.save(fitting.checkpoint(data=graph.fingerprint))

        def stop_if_asked(*, pausing: bool = False) -> None:
            if should_stop() or pausing:
                save()
                raise InterruptedJobError(fitting.step)

        # After a resume, the metrics of the checkpoint are sent again with the next report.
        unreported, saved_at = list(fitting.history), time.monotonic()
        while True:
            # At the top of the loop, so that a run resumed right after its last training step gets here. Methods without
            # tuning steps need the shifts as well: every job reports intervals.
            if fitting.is_tuning and fitting.shifts is None:
                fitting.end_training(between=stop_if_asked)
            # Not the condition of the loop, because the shifts are needed even if no step is left.
            if fitting.step == fitting.num_steps:
                break
            fitting.take_step()
            if self._is_due(fitting):
                new = self._metrics(
                    fitting, fitting.logits().cpu().numpy(), labels, self._reported(nodes, fitting)
                )
                # Before the yield: if the job is stopped there, the checkpoint contains these metrics.
                fitting.history += new
                yield Progress(step=fitting.step, num_steps=fitting.num_steps, metrics=(*unreported, *new))
                unreported = []
                stop_if_asked(pausing=context.should_pause())
            stop_if_asked()
            if time.monotonic() - saved_at >= self.budget.checkpoint_every_s:
                save()
                saved_at = time.monotonic()
        save()
        yield self._final_progress(fitting, labels, nodes, unreported)

    def expected_work(self, data: Graph) -> tuple[float, int]:
        """Returns (0.0, 0): the work of this kind is not counted in advance."""
        return 0.0, 0

    def check(self, data: Graph) -> list[str]:
        """Samples the splits and builds the network without storage. Raises `ValueError` if train or val lacks the rare class."""
        minority = class_number(self.minority, data)
        nodes = self.split.split(data, minority=minority, seed=self.seed)
        # Builds without storage, only to raise the errors of unsuitable options.
        with torch.device("meta"):
            self.model.build(num_features=data.num_features, num_classes=2)
        for name in ("train", "val"):
            if not (data.labels[nodes[name]] == minority).any():
                raise ValueError(
                    f"split has no node of class {data.classes[minority]!r} in {name}; it needs at least one"
                )
        return []

    def _parts(self) -> Parts:
        return Parts(
            objective=self.objective,
            method=self.method,
            jackknife=self.jackknife,
            lr=self.optimizer.lr,
            l2=self.optimizer.l2,
            num_steps=self.budget.steps,
            seed=self.seed,
        )

    def _is_due(self, fitting: Fitting) -> bool:
        every = self.budget.evaluate_every
        return every > 0 and fitting.step % every == 0 and fitting.step < fitting.num_steps

    def _reported(self, nodes: Mapping[str, Nodes], fitting: Fitting) -> dict[str, Nodes]:
        """Returns the splits to evaluate: test, and val until the method fits to it."""
        return {"test": nodes["test"]} | (
            {} if fitting.is_tuning and self.method.uses_val else {"val": nodes["val"]}
        )

    def _metrics(
        self,
        fitting: Fitting,
        logits: Floats,
        labels: Nodes,
        splits: Mapping[str, Nodes],
        more: Mapping[tuple[str, str], float] | None = None,
    ) -> list[Metric]:
        """Returns standard and rare-class metrics of logits (N, 2) and the mean training losses since the last report."""
        named = {("train", name): value for name, value in fitting.take_means().items()}
        for split, ids in splits.items():
            of_split = standard_metrics(logits[ids], labels[ids])
            of_split |= rare_metrics(np.exp(log_softmax(logits[ids].astype(np.float64))), labels[ids])
            named |= {(split, name): value for name, value in of_split.items()}
        return [
            Metric(
                step=fitting.step,
                # Full batches: one step is one epoch.
                epoch=float(fitting.step),
                split=split,
                name=name,
                value=value,
                wall_s=fitting.train_s,
            )
            for (split, name), value in (named | dict(more or {})).items()
        ]

    def _final_progress(
        self, fitting: Fitting, labels: Nodes, nodes: Mapping[str, Nodes], unreported: list[Metric]
    ) -> Progress:
        """Returns the last report: metrics of every split that was not fitted to, with the method's readout."""
        # In float64, in which calibrators compute.
        raw = fitting.logits().double().cpu().numpy()
        readout = self.method.readout(raw[nodes["val"]], labels[nodes["val"]], seed=self.seed)
        logits = readout.log_probabilities(raw)
        unfitted = [name for name in ("val", "calib", "test") if not (name == "val" and self.method.uses_val)]
        splits = {name: nodes[name] for name in unfitted if len(nodes[name])}
        probabilities = torch.from_numpy(np.exp(logits[:, 1]))
        intervals = self._intervals(fitting, readout)
        more = {
            (split, name): value
            for split, ids in splits.items()
            for name, value in _uncertainty(probabilities, intervals, labels, ids).items()
        }
        more |= {("train", name): value for name, value in {**readout.numbers, **fitting.leave_one_out}.items()}
        metrics = self._metrics(fitting, logits, labels, splits, more)
        shown = {
            split: Predictions(row_ids=ids, labels=labels[ids], logits=logits[ids].astype(np.float32))
            for split, ids in splits.items()
        }
        return Progress(
            step=fitting.step,
            num_steps=fitting.num_steps,
            metrics=(*unreported, *metrics),
            curves=tuple(_reliability(shown, step=fitting.step)),
            outcome=_outcome(fitting, shown, _files(readout, probabilities, intervals), model=self.model),
        )

    def _intervals(self, fitting: Fitting, readout: Readout) -> Intervals:
        """Returns intervals of all nodes; leave-one-out networks use the same readout as the whole network."""
        everyone, train = torch.arange(len(fitting.labels), device=fitting.labels.device), fitting.train.cpu()
        with torch.no_grad():
            without = fitting.logits_without(everyone).double().cpu().numpy()
        # (n, N, 2) is flattened for the readout and becomes (n, N), P(class 1) of every node by every left-out network.
        read = np.exp(readout.log_probabilities(without.reshape(-1, 2))[:, 1]).reshape(without.shape[:2])
        probabilities = torch.from_numpy(read)
        own = probabilities.gather(1, train[:, None])[:, 0]
        return self.jackknife.intervals(probabilities, own=own, labels=fitting.labels.cpu()[train])


def class_number(minority: str | int, graph: Graph) -> int:
    """Returns the number of the class with this name or number. Raises `ValueError` if the graph has none."""
    if isinstance(minority, str) and minority in graph.classes:
        return graph.classes.index(minority)
    if isinstance(minority, int) and 0 <= minority < graph.num_classes:
        return minority
    known = ", ".join(f"{number} {name}" for number, name in enumerate(graph.classes))
    raise ValueError(
        f"minority is {minority!r}; it must be a class of {graph.name}, by number or name: {known}"
    )


def _uncertainty(probabilities: Tensor, intervals: Intervals, labels: Nodes, ids: Nodes) -> dict[str, float]:
    nodes = torch.from_numpy(ids)
    own, p, y = intervals.at(nodes), probabilities[nodes], torch.from_numpy(labels[ids])
    cut = own.clipped
    return {
        "eice": float(individual_errors(p, own).mean()),
        "eice_released": float(individual_errors_as_released(p, own).mean()),
        "interval_coverage": float(((own.lower <= y) & (y <= own.upper)).double().mean()),
        "interval_width": float((cut.upper - cut.lower).mean()),
    }


def _reliability(shown: Mapping[str, Predictions], *, step: int) -> Iterator[CurvePoint]:
    """Yields the non-empty reliability bins of every split: x confidence, y accuracy, count nodes."""
    for split, predicted in shown.items():
        bins = reliability_of_logits(predicted.logits, predicted.labels)
        for x, y, count in zip(bins.confidence, bins.accuracy, bins.count, strict=True):
            if count:
                yield CurvePoint(
                    name="reliability", step=step, key=split, x=float(x), y=float(y), count=int(count)
                )


def _files(readout: Readout, probabilities: Tensor, intervals: Intervals) -> dict[str, bytes]:
    """Returns the artifact files: P(minority) and its interval for every node, and the fitted calibrator."""
    tensors = {"probability": probabilities, "lower": intervals.lower, "upper": intervals.upper}
    files = {"intervals.safetensors": safetensors.torch.save(tensors)}
    if readout.tensors:
        fitted = {name: torch.from_numpy(np.array(array)) for name, array in readout.tensors.items()}
        files["calibrator.safetensors"] = safetensors.torch.save(fitted)
    return files


def _outcome(
    fitting: Fitting, shown: Mapping[str, Predictions], files: Mapping[str, bytes], *, model: NodeModel
) -> Outcome:
    weights = {name: tensor.detach().cpu().clone() for name, tensor in fitting.network.state_dict().items()}
    num_parameters = sum(parameter.numel() for parameter in fitting.network.parameters())
    device = fitting.labels.device
    return Outcome(
        predictions=shown,
        weights=weights,
        masks={},
        num_parameters=num_parameters,
        num_active=num_parameters,
        train_flops=None,
        train_s=fitting.train_s,
        peak_memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        blueprint={
            "family": "nodes.models",
            "model": table_of(model),
            "num_features": fitting.flat.graph.features.matrix.shape[1],
            "num_outputs": 2,
        },
        files=files,
    )
