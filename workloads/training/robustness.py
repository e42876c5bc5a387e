"""Robust accuracy: the accuracy on test images after several adversarial attacks.

It is an upper bound of the true robust accuracy, because a stronger attack may find more errors. Reference for the protocol,
50 steps of 2.5 eps / 50 from 10 random starts: Özdenizci and Legenstein 2021, Training Adversarially Robust Sparse Networks
via Bayesian Connectivity Sampling (ICML), by their code.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.fields import renamed
from pruneyard.workloads.interfaces import Network, known_range
from pruneyard.workloads.losses.adversarial import Attack, margin_loss
from pruneyard.workloads.seeding import stream
from pruneyard.workloads.training.final_network import EVALUATION_BATCH, final_network
from pruneyard.workloads.training.state import Training

ATTACKED_BATCH = 128  # rows at once: an attack keeps activations, as training does


@dataclass(frozen=True, kw_only=True)
class RobustAccuracy:
    """The attacks on the finished network; by default there are none. Their FLOPs are not counted, as for any evaluation.

    A row counts as robust if it is classified correctly without an attack and after every restart of the attack.
    """

    restarts: int = 0  # random starts of the attack; 0: not measured; papers use 10
    eps: float = 8 / 255  # largest change of a pixel, for pixels in [0, 1]
    num_steps: int = 50
    # Sum of the step sizes of one start, in units of eps.
    total_step_size: float = field(default=2.5, metadata=renamed("reach"))
    # attacked rows, evenly spread over the test split; left out: all
    max_samples: int | None = field(default=None, metadata=renamed("max_rows"))

    def __post_init__(self) -> None:
        if self.restarts < 0:
            raise ValueError(f"restarts is {self.restarts}; it must be 0 or more")
        if self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}; it must be 1 or more")
        if not 0 <= self.total_step_size < float("inf"):
            raise ValueError(f"total_step_size is {self.total_step_size}; it must be 0 or more")
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"max_samples is {self.max_samples}; it must be 1 or more")
        _ = self.attack  # checks eps

    @property
    def attack(self) -> Attack:
        """The attack of one restart; its step size is at most 1, the distance from black to white."""
        return Attack(
            eps=self.eps, step_size=min(1.0, self.total_step_size * self.eps / self.num_steps), num_steps=self.num_steps
        )

    def rows(self, num_rows: int) -> Tensor:
        """Returns the indices of the attacked rows among `num_rows`: (n,) int64, ascending."""
        num = min(num_rows, self.max_samples or num_rows)
        return torch.arange(num) * num_rows // num


NOT_ATTACKED = RobustAccuracy()


def robust_metrics(
    table: RobustAccuracy, training: Training, splits: Mapping[str, DeviceSplit]
) -> dict[tuple[str, str], float]:
    """Returns the robust accuracy of the final network by split and name; empty if `table` asks for none."""
    if not table.restarts or "test" not in splits:
        return {}
    with final_network(training), training.autocast():
        accuracy = robust_accuracy(
            training.forward, splits["test"], table, num_extra=training.num_extra, seed=training.seed
        )
    return {("test", "robust_accuracy"): accuracy}


def robust_accuracy(
    network: Network, split: DeviceSplit, table: RobustAccuracy, *, num_extra: int = 0, seed: int = 0
) -> float:
    """Returns the share of the attacked rows that no attack moves to a wrong class; `network` must be in evaluation mode.

    A row that one restart breaks is not attacked again. More restarts never raise the result: the random starts of a restart
    depend only on the restarts before it.
    """
    rows = table.rows(len(split)).to(split.device)
    robust_rows = torch.cat(
        [
            part[_is_correct(network, images, labels, num_extra)]
            for part, images, labels in _parts(split, rows, EVALUATION_BATCH)
        ]
    )
    if not table.attack.forwards:
        return len(robust_rows) / len(rows)
    for restart in range(table.restarts):
        if not len(robust_rows):
            break
        generator = stream(seed, "robust", restart)
        kept = [robust_rows[:0]]
        for part, images, labels in _parts(split, robust_rows, ATTACKED_BATCH):
            loss_fn = margin_loss(network, labels, num_extra=num_extra)
            moved = table.attack(images, loss_fn=loss_fn, pixels=known_range(split.pixels), generator=generator)
            kept.append(part[_is_correct(network, moved, labels, num_extra)])
        robust_rows = torch.cat(kept)
    return len(robust_rows) / len(rows)


def _parts(split: DeviceSplit, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields row indices, normalised images and labels, at most `size` rows at once."""
    for part in rows.split(size):
        yield part, split.normalise(split.images[part]), split.labels[part]


@torch.no_grad()
def _is_correct(network: Network, images: Tensor, labels: Tensor, num_extra: int) -> Tensor:
    """Returns whether each row is classified correctly, (B,) bool; the last `num_extra` outputs are not classes."""
    logits = network(images)
    return logits[:, : logits.shape[1] - num_extra].argmax(dim=1) == labels
