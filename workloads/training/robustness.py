"""Accuracy that is left when every test image may be moved against its label, as far as several attacks find out.

An upper bound of the true robust accuracy: a stronger attack may find more. Reference for the protocol, 50 steps of
2.5 eps / 50 from 10 random starts: Özdenizci and Legenstein 2021, Training Adversarially Robust Sparse Networks via
Bayesian Connectivity Sampling (ICML), by their code.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.interfaces import Network
from pruneyard.workloads.losses.adversarial import Attack, against_labels
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.training.state import EVALUATION_BATCH, Training

ATTACKED_BATCH = 128  # rows at once: an attack keeps activations, as training does


@dataclass(frozen=True, kw_only=True)
class RobustAccuracy:
    """How the finished network is attacked; neutral by default. The work is an evaluation's: it is not counted.

    A row counts if it is right as it is and after every one of the restarts.
    """

    restarts: int = 0  # random starts; 0: not measured; papers take 10
    eps: float = 8 / 255  # largest change of a pixel; pixels lie in [0, 1]
    num_steps: int = 50
    reach: float = 2.5  # all steps of a start together, in eps
    max_rows: int | None = None  # of the test split, evenly spread over it; left out: all

    def __post_init__(self) -> None:
        if self.restarts < 0:
            raise ValueError(f"restarts is {self.restarts}; it must be 0 or more")
        if self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}; it must be 1 or more")
        if not 0 <= self.reach < float("inf"):
            raise ValueError(f"reach is {self.reach}; it must be 0 or more")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows is {self.max_rows}; it must be 1 or more")
        _ = self.attack  # checks eps

    @property
    def attack(self) -> Attack:
        """Of one start; a step never needs to be longer than from black to white."""
        return Attack(
            eps=self.eps, step_size=min(1.0, self.reach * self.eps / self.num_steps), num_steps=self.num_steps
        )

    def rows(self, num_rows: int) -> Tensor:
        """Which of so many are attacked: (n,) int64, ascending."""
        num = min(num_rows, self.max_rows or num_rows)
        return torch.arange(num) * num_rows // num


NOT_ATTACKED = RobustAccuracy()


def robust_metrics(
    table: RobustAccuracy, training: Training, splits: Mapping[str, DeviceSplit]
) -> dict[tuple[str, str], float]:
    """By split and name, of the network as it would be finished now; nothing where nothing is to be measured."""
    if not table.restarts or "test" not in splits:
        return {}
    with training.finished(), training.autocast():
        share = robust_accuracy(
            training.forward, splits["test"], table, num_extra=training.num_extra, seed=training.seed
        )
    return {("test", "robust_accuracy"): share}


def robust_accuracy(
    network: Network, split: DeviceSplit, table: RobustAccuracy, *, num_extra: int = 0, seed: int = 0
) -> float:
    """Share of the attacked rows that no attack moves to a wrong class; `network` is in evaluation mode.

    What was broken by one start is not attacked again: the starts of a restart depend on those before it alone, so that
    more restarts never find less.
    """
    rows = table.rows(len(split)).to(split.device)
    standing = torch.cat(
        [
            some[_right(network, images, labels, num_extra)]
            for some, images, labels in _parts(split, rows, EVALUATION_BATCH)
        ]
    )
    if not table.attack.forwards:
        return len(standing) / len(rows)
    for restart in range(table.restarts):
        if not len(standing):
            break
        generator = stream(seed, "robust", restart)
        kept = [standing[:0]]
        for some, images, labels in _parts(split, standing, ATTACKED_BATCH):
            loss_of = against_labels(network, labels, num_extra=num_extra)
            moved = table.attack(images, loss_of=loss_of, pixels=split.pixels, generator=generator)
            kept.append(some[_right(network, moved, labels, num_extra)])
        standing = torch.cat(kept)
    return len(standing) / len(rows)


def _parts(split: DeviceSplit, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows, their images and their labels."""
    for some in rows.split(size):
        yield some, split.normalise(split.images[some]), split.labels[some]


@torch.no_grad()
def _right(network: Network, images: Tensor, labels: Tensor, num_extra: int) -> Tensor:
    """(B,) bool; the last `num_extra` outputs are no classes."""
    logits = network(images)
    return logits[:, : logits.shape[1] - num_extra].argmax(dim=1) == labels
