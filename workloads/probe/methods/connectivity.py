"""The loss barrier on the segment between the weights of two finished networks, for every pair.

The barrier is the largest height of the loss above the line between the losses of the ends, in nats; 0 if the loss nowhere
exceeds it. That of the accuracy is the largest depth below the line. Metrics are means over pairs; `path` is the split of test
rows, and `path_train` that of training rows. Batch-norm statistics are computed anew at every point, ends included, over the
training rows that are measured.

With `matching`, every segment is measured a second time after the hidden units of its second network were permuted to match
those of the first one, which changes no function: splits `path_matched` and `path_matched_train`. The permutation is that of
the merge `weight_matching`; it is a local optimum, so a barrier after matching is an upper bound of the smallest one.

The curves `path_loss` and `path_accuracy` hold the values along every segment: `key` is `split run-run`, or `split-matched
run-run`, `x` the place, from 0 to 1.

Reference: Frankle et al. 2020, Linear Mode Connectivity and the Lottery Ticket Hypothesis (arXiv:1912.05671); the line between
the ends as in Entezari et al. 2022, The Role of Permutation Invariance in Linear Mode Connectivity (arXiv:2110.06296); matching
as in Ainsworth, Hayase and Srinivasa 2022, Git Re-Basin (arXiv:2209.04836)
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.merge.matching import blocks_of, matched
from pruneyard.workloads.networks.channel_graph import channel_graph
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.connections import between, excess, refresh, scores
from pruneyard.workloads.probe.probe import Finding, Subject, check_max_samples
from pruneyard.workloads.workload import CurvePoint

__all__ = ["Connectivity"]

PATHS = {"train": "path_train", "test": "path"}
"""The split of the metrics, by that of the rows."""
NAMES = ("loss", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Connectivity:
    """num_points: places on each segment, both ends included. max_samples: rows of each split, evenly spread; left out: all.
    matching: whether segments are also measured after the hidden units were matched.
    """

    examples: ClassVar[tuple[Settings, ...]] = (
        {"num_points": 3, "max_samples": 40, "matching": True},
        {"num_points": 3, "max_samples": 40},
    )
    revision: ClassVar[int] = 2  # before, a smaller last batch counted as much as the others in batch-norm statistics
    fewest_runs: ClassVar[int] = 2
    most_runs: ClassVar[int | None] = None
    reads_data: ClassVar[bool] = True

    num_points: int = 11
    max_samples: int | None = None
    matching: bool = field(default=False, metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        if self.num_points < 3:
            raise ValueError(f"num_points is {self.num_points}; it must be 3 or more, so that one lies between the ends")
        check_max_samples(self.max_samples)

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns mean and largest barriers over pairs.

        Raises `ValueError` for networks of different models, for runs on different data, and with `matching` for a network whose
        channels cannot be followed.
        """
        _check_alike(subjects)
        rows = {name: subjects[0].on_device(subjects[0].split(name, self.max_samples)) for name in PATHS}
        barriers: list[dict[tuple[str, str], float]] = []
        curves: list[CurvePoint] = []
        for one, other in itertools.combinations(subjects, 2):
            found: dict[tuple[str, str], float] = {}
            for is_matched in (False, True)[: 1 + self.matching]:
                second = _matched(one, other) if is_matched else other.network()
                path = self._path((one.network(), second), rows, num_classes=one.num_classes)
                found |= _barriers(path, is_matched=is_matched)
                curves += _points(f"{one.run.run_key}-{other.run.run_key}", path, rows, is_matched=is_matched)
            barriers.append(found)
        names = barriers[0]
        metrics = {key: sum(found[key] for found in barriers) / len(barriers) for key in names}
        metrics |= {(split, f"{name}_highest"): max(found[split, name] for found in barriers) for split, name in names}
        return Finding(metrics=metrics, curves=tuple(curves))

    def _path(
        self, ends: tuple[nn.Module, nn.Module], rows: dict[str, DeviceSplit], *, num_classes: int
    ) -> dict[str, Tensor]:
        """Returns loss and accuracy at every place, (P, 2) float64, by split."""
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for place in torch.linspace(0, 1, self.num_points).tolist():
            network = between(*ends, place)
            refresh(network, rows["train"])
            for name, values in scores(network, rows, num_classes=num_classes).items():
                found[name].append(values)
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def _matched(one: Subject, other: Subject) -> nn.Module:
    """Returns the other network with its channels permuted to match those of the first one. Its masks move with its zeros."""
    reference, tensors = (subject.finished.network.state_dict() for subject in (one, other))
    graph = channel_graph(one.finished.network, one.finished.blueprint.image_shape)
    weights, _ = matched(reference, tensors, blocks_of(graph, reference), {})
    network = other.network()
    network.load_state_dict(weights, strict=True)
    return network


def _check_alike(subjects: Sequence[Subject]) -> None:
    first = subjects[0]
    for subject in subjects[1:]:
        key = subject.run.run_key
        if subject.finished.blueprint != first.finished.blueprint:
            raise ValueError(f"{key} has another model or other inputs than {first.run.run_key}; connect runs of one model")
        if subject.data.fingerprint != first.data.fingerprint:
            raise ValueError(f"{key} was trained on other data than {first.run.run_key}; connect runs on the same data")


def _barriers(path: dict[str, Tensor], *, is_matched: bool) -> dict[tuple[str, str], float]:
    """Returns the barriers of loss and accuracy by split and name."""
    found = {}
    for split, values in path.items():
        name = PATHS[split].replace("path", "path_matched") if is_matched else PATHS[split]
        found[name, "loss_barrier"] = float(excess(values[:, 0]).max())
        found[name, "accuracy_barrier"] = float(excess(-values[:, 1]).max())
    return found


def _points(pair: str, path: dict[str, Tensor], rows: dict[str, DeviceSplit], *, is_matched: bool) -> list[CurvePoint]:
    suffix = "-matched" if is_matched else ""
    return [
        CurvePoint(
            name=f"path_{name}", step=1, key=f"{split}{suffix} {pair}", x=float(place), y=float(value), count=len(rows[split])
        )
        for split, values in path.items()
        for name, column in zip(NAMES, values.T, strict=True)
        for place, value in zip(torch.linspace(0, 1, len(values)), column, strict=True)
    ]
