"""Shows an objective, between two epochs, what the network makes of whole splits."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.networks.flops import forward_flops
from pruneyard.workloads.training.state import Training


@dataclass(frozen=True)
class Answering:
    """See `pruneyard.workloads.interfaces.SplitLogits`. One rank finds them, so that ranks whose rounding differs go on alike."""

    training: Training
    val: DeviceSplit | None = None

    def logits(self, split: Literal["train", "val"]) -> tuple[Tensor, Tensor]:
        """Logits and labels, on the training's device; of the weights that are trained, also where their mean is evaluated."""
        training = self.training
        rows = {"train": training.rows, "val": self.val}[split]
        if rows is None:
            raise ValueError(f"the data have no {split} rows; the objective asks for them")
        training.count_flops(len(rows) * forward_flops(training.macs, training.sparse.used))
        logits: Tensor = training.backward.ranks.from_first(lambda: self._standing(rows))
        return logits.to(rows.device), rows.labels

    def _standing(self, rows: DeviceSplit) -> Tensor:
        with self.training.applied.finished(), self.training.at_rest():
            return self.training.outputs(rows)
