"""Regions that decide, by a two-way greedy search, with insertion and deletion curves.

An image is divided into a grid of `side` x `side` regions. The score of a set of regions is the probability of the predicted
class with these regions alone, plus one minus its probability without them; the rest is the mean input. Regions are ordered
from most to least important by greedy search, from both ends at once. `insertion` and `deletion` are the areas below the
probability while regions are put back or removed in this order, `insertion_gain` is relative to a random order of the regions.
The same of the split `regions@gradient` belong to the regions ranked by the mean magnitude of their integrated gradients.
`scored_sets` counts the sets of regions that were scored for one image. On rows that the network misclassifies,
`error_confidence` is the highest probability of the true label among the first regions of an order found for that label, mean
over these rows; absent if there is none.

captum has no search for subsets. Its `FeatureAblation` scores one region at a time, which is the first round of this search.

Only the abstract was read. Unverified: the score (a summary of the paper names four parts, of which this one has those that
ask whether regions suffice and whether they are needed), regions on a grid, and that both ends share their evaluations.

Reference: Chen et al. 2025, Less is More: Efficient Black-box Attribution via Minimal Interpretable Subset Selection
(arXiv:2504.00470)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pruneyard.workloads.plugins import Settings
from pruneyard.workloads.probe.areas import area
from pruneyard.workloads.probe.probe import Finding, Subject, check_max_samples
from pruneyard.workloads.probe.regions import Search, first_regions, greedy_order, grid_regions, set_score
from pruneyard.workloads.probe.saliency import attribute, keep
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.workload import CurvePoint

__all__ = ["Lima"]

ROWS = 25  # images whose sets are scored in one pass; results do not depend on it beyond rounding
SPLITS = {"search": "regions", "gradient": "regions@gradient"}


@dataclass(frozen=True, kw_only=True)
class Lima:
    """side: of the grid of regions. search: `bidirectional`, or plain `greedy` as a control. max_samples: test rows."""

    examples: ClassVar[tuple[Settings, ...]] = ({"side": 2, "max_samples": 20, "num_steps": 2},)
    fewest_runs: ClassVar[int] = 1
    most_runs: ClassVar[int | None] = 1
    reads_data: ClassVar[bool] = True

    side: int = 7
    search: Search = "bidirectional"
    num_steps: int = 16  # of integrated gradients
    max_samples: int | None = 200

    def __post_init__(self) -> None:
        for name, lowest in (("side", 2), ("num_steps", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {lowest} or more")
        if self.search not in ("bidirectional", "greedy"):
            raise ValueError(f"search is {self.search!r}; it must be bidirectional or greedy")
        check_max_samples(self.max_samples)

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns the areas. Raises `ValueError` for inputs with fewer lines than `side`."""
        (subject,) = subjects
        rows = subject.on_device(subject.split("test", self.max_samples))
        regions = grid_regions(rows.image_shape, self.side).to(subject.device)
        network, num_regions = subject.network(), int(regions.max()) + 1
        generator = stream(seed, "lima")
        curves = {name: torch.zeros(num_regions + 1, dtype=torch.float64) for name in (*_NAMES, "insertion_random")}
        scored, confidences = 0, []
        for inputs, labels in rows.batches(ROWS):
            with torch.no_grad():
                classes = network(inputs)[:, : subject.num_classes].argmax(dim=1)
            orders, scored = self._orders(network, inputs, classes, regions, subject.num_classes, generator)
            for name, values in _curves(network, inputs, classes, regions, orders, subject.num_classes).items():
                curves[name] += values
            wrong = classes != labels
            if wrong.any():
                confidences.append(self._of_errors(network, inputs[wrong], labels[wrong], regions, subject.num_classes))
        means = {name: values / len(rows) for name, values in curves.items()}
        metrics = _metrics({name: area(values) for name, values in means.items()})
        metrics["regions", "scored_sets"] = float(scored)
        if confidences:
            metrics["regions", "error_confidence"] = float(torch.cat(confidences).mean())
        points = tuple(
            CurvePoint(name=of, step=1, key=order or "random", x=place / num_regions, y=float(value), count=len(rows))
            for name, values in means.items()
            for of, _, order in [name.partition(" ")]
            for place, value in enumerate(values)
        )
        return Finding(metrics=metrics, curves=points)

    def _orders(
        self, network: nn.Module, inputs: Tensor, classes: Tensor, regions: Tensor, num_classes: int, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], int]:
        """Returns the orders (B, R) of the regions by the search, by gradients and at random, and the number of scored sets."""
        num, num_regions = len(inputs), int(regions.max()) + 1
        score = set_score(network, inputs, classes, regions, num_classes=num_classes)
        searched, scored = greedy_order(score, num, num_regions, search=self.search, device=inputs.device)
        by_place = attribute(
            network, inputs, classes, method="integrated_gradients", num_steps=self.num_steps, generator=generator
        )
        sums = torch.zeros(num, num_regions, device=inputs.device).index_add_(1, regions, by_place)
        by_gradient = (sums / regions.bincount(minlength=num_regions)).argsort(dim=1, descending=True, stable=True)
        at_random = torch.rand(num, num_regions, generator=generator).argsort(dim=1).to(inputs.device)
        return {"search": searched, "gradient": by_gradient, "random": at_random}, scored

    def _of_errors(
        self, network: nn.Module, inputs: Tensor, labels: Tensor, regions: Tensor, num_classes: int
    ) -> Tensor:
        """Returns the highest probability of the label among the first regions of an order found for it, (B,)."""
        num_regions = int(regions.max()) + 1
        score = set_score(network, inputs, labels, regions, num_classes=num_classes)
        order, _ = greedy_order(score, len(inputs), num_regions, search=self.search, device=inputs.device)
        found = [
            _probability(network, inputs, labels, first_regions(order, count)[:, regions], num_classes)
            for count in range(1, num_regions + 1)
        ]
        return torch.stack(found).amax(dim=0).cpu()


_NAMES = ("insertion search", "deletion search", "insertion gradient", "deletion gradient")


@torch.no_grad()
def _probability(network: nn.Module, inputs: Tensor, classes: Tensor, kept: Tensor, num_classes: int) -> Tensor:
    """Returns the probability of `classes` with the places `kept: (B, P)` alone, (B,)."""
    logits: Tensor = network(keep(inputs, kept))[:, :num_classes]
    return logits.softmax(dim=1).gather(1, classes[:, None])[:, 0]


def _curves(
    network: nn.Module, inputs: Tensor, classes: Tensor, regions: Tensor, orders: Mapping[str, Tensor], num_classes: int
) -> dict[str, Tensor]:
    """Returns the sums over rows of the probability after every count of regions, (R + 1,), by name."""
    found: dict[str, list[float]] = {}
    for count in range(orders["search"].shape[1] + 1):
        for name, order in orders.items():
            chosen = first_regions(order, count)[:, regions]
            kept = {"insertion_random": chosen}
            if name != "random":
                kept = {f"insertion {name}": chosen, f"deletion {name}": ~chosen}
            for key, places in kept.items():
                value = _probability(network, inputs, classes, places, num_classes)
                found.setdefault(key, []).append(float(value.double().sum()))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def _metrics(areas: Mapping[str, float]) -> dict[tuple[str, str], float]:
    found = {}
    for name, split in SPLITS.items():
        for of in ("insertion", "deletion"):
            found[split, of] = areas[f"{of} {name}"]
        found[split, "insertion_gain"] = areas[f"insertion {name}"] - areas["insertion_random"]
    return found
