"""Networks retrained on ranked pixels: whether input gradients name those that tell classes apart.

The training and test rows are reduced to the share of pixels with the largest gradients of the network, and to the share with the
smallest; all others become the mean input. A new network of the same model, without masks, is trained on each, from the same
start. `diffroar` is the test accuracy on the largest minus that on the smallest; above 0, gradients rank better than chance. The
control `diffroar_random` is the same for a random ranking, whose largest and smallest pixels are alike. On data whose signal is
planted, such as `block_digits`, `signal_share` is the share of the kept pixels of test rows that hold the signal; half of the
pixels of `block_digits` do, so 0.5 is chance.

The gradient is that of the logit of the label, summed over channels in magnitude. Only the abstract was read. Unverified: the
recipe of the retrained networks, which is SGD with momentum here, and that the difference is one at equal shares.

Reference: Shah, Jain and Netrapalli 2021, Do Input Gradients Highlight Discriminative Features? (arXiv:2102.12781)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.data.batches import DeviceSplit, epoch_order
from pruneyard.workloads.data.planted import PlantedSignal
from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.probe import BATCH_SIZE, Finding, Subject, check_max_samples
from pruneyard.workloads.probe.saliency import Attribution, attribute, keep, places_kept
from pruneyard.workloads.seeding import fork_rng, global_stream, stream, stream_seed
from pruneyard.workloads.workload import CurvePoint

__all__ = ["Diffroar"]

Rows = tuple[Tensor, Tensor]
"""Inputs (N, ...) and labels (N,)."""


@dataclass(frozen=True, kw_only=True)
class Diffroar:
    """shares: of the pixels that are kept; metrics are means over them. max_samples: rows of each split, evenly spread."""

    examples: ClassVar[tuple[Settings, ...]] = ({"shares": [0.5], "epochs": 1, "max_samples": 40},)
    fewest_runs: ClassVar[int] = 1
    most_runs: ClassVar[int | None] = 1
    reads_data: ClassVar[bool] = True

    shares: tuple[float, ...] = (0.1, 0.3)
    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.05
    max_samples: int | None = None

    def __post_init__(self) -> None:
        if not self.shares or not all(0 < share <= 0.5 for share in self.shares):
            rule = "they must lie in (0, 0.5], so that largest and smallest are disjoint"
            raise ValueError(f"shares is {list(self.shares)}; {rule}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        check_max_samples(self.max_samples)

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the differences of test accuracy."""
        (subject,) = subjects
        network = subject.network()
        splits = {name: subject.on_device(subject.split(name, self.max_samples)) for name in ("train", "test")}
        metrics, curves = {}, []
        rankings: dict[str, Attribution] = {"diffroar": "gradient", "diffroar_random": "random"}
        for name, method in rankings.items():
            ranked = {part: _ranked(network, rows, method, seed) for part, rows in splits.items()}
            if name == "diffroar" and isinstance(source := subject.run.source(), PlantedSignal):
                planted = torch.from_numpy(source.signal_places(splits["test"].images.cpu().numpy()))
                found = [float(planted[places_kept(ranked["test"][1].cpu(), share)].double().mean()) for share in self.shares]
                metrics["attribution", "signal_share"] = sum(found) / len(found)
            differences = []
            for share in self.shares:
                largest, smallest = (self._accuracy(subject, ranked, share, flip, seed) for flip in (False, True))
                differences.append(largest - smallest)
                curves += [
                    CurvePoint(name=name, step=1, key=key, x=share, y=value, count=len(splits["test"]))
                    for key, value in (("largest", largest), ("smallest", smallest))
                ]
            metrics["attribution", name] = sum(differences) / len(differences)
        return Finding(metrics=metrics, curves=tuple(curves))

    def _accuracy(
        self, subject: Subject, ranked: dict[str, tuple[Rows, Tensor]], share: float, flip: bool, seed: int
    ) -> float:
        """Returns the test accuracy of a new network on the pixels with the largest, or with `flip` the smallest attributions."""
        reduced = {
            part: (keep(inputs, places_kept(-found if flip else found, share)), labels)
            for part, ((inputs, labels), found) in ranked.items()
        }
        blueprint = subject.finished.blueprint
        with global_stream(seed, "diffroar/start"):
            network = blueprint.builder.build(image_shape=blueprint.image_shape, num_classes=blueprint.num_outputs)
        network = network.to(subject.device)
        with fork_rng(subject.device, stream_seed(seed, "diffroar/forward")):
            self._train(network, reduced["train"], num_classes=subject.num_classes, seed=seed)
        return _accuracy(network, reduced["test"], num_classes=subject.num_classes)

    def _train(self, network: nn.Module, rows: Rows, *, num_classes: int, seed: int) -> None:
        inputs, labels = rows
        optimizer = torch.optim.SGD(network.parameters(), lr=self.lr, momentum=0.9)
        for epoch in range(self.epochs):
            order = epoch_order(len(labels), seed, epoch).to(inputs.device)
            for batch in order.split(min(self.batch_size, len(labels))):
                if len(batch) < 2 <= len(labels):
                    continue  # a batch norm has no variance of one row
                optimizer.zero_grad()
                functional.cross_entropy(network(inputs[batch])[:, :num_classes], labels[batch]).backward()
                optimizer.step()
        network.eval()


def _ranked(network: nn.Module, rows: DeviceSplit, method: Attribution, seed: int) -> tuple[Rows, Tensor]:
    """Returns all rows and the attribution of their labels, (N, P)."""
    generator = stream(seed, "diffroar/random")
    batches = list(rows.batches(BATCH_SIZE))
    parts = [attribute(network, inputs, labels, method=method, num_steps=1, generator=generator) for inputs, labels in batches]
    return (torch.cat([inputs for inputs, _ in batches]), torch.cat([labels for _, labels in batches])), torch.cat(parts)


@torch.no_grad()
def _accuracy(network: nn.Module, rows: Rows, *, num_classes: int) -> float:
    inputs, labels = rows
    found = [network(part)[:, :num_classes].argmax(dim=1) for part in inputs.split(BATCH_SIZE)]
    return float((torch.cat(found) == labels).float().mean())
