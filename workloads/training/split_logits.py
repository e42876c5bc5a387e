"""The logits of a training's network on whole splits, for objectives that read them between two epochs."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.networks.flops import forward_flops
from pruneyard.workloads.training.final_network import current_logits
from pruneyard.workloads.training.state import Training


@dataclass(frozen=True)
class TrainingLogits:
    """Implements `pruneyard.workloads.interfaces.SplitLogits`.

    Rank 0 computes the logits and sends them to the others, because ranks whose rounding differs would drift apart.
    """

    training: Training
    val: DeviceSplit | None = None

    def logits(self, split: Literal["train", "val"]) -> tuple[Tensor, Tensor]:
        """Returns logits and labels on the training's device.

        The logits are those of the trained weights, even where evaluations use the mean of weight samples.
        """
        training = self.training
        rows = {"train": training.rows, "val": self.val}[split]
        if rows is None:
            raise ValueError(f"the data have no {split} rows, but the objective needs their logits")
        training.count_flops(len(rows) * forward_flops(training.macs, training.applied.used))
        logits: Tensor = training.backward.ranks.broadcast_from_rank_0(lambda: self._logits_of_rows(rows))
        return logits.to(rows.device), rows.labels

    def _logits_of_rows(self, rows: DeviceSplit) -> Tensor:
        with self.training.applied.final_weights(), self.training.eval_mode():
            return current_logits(self.training, rows)
