"""The FLOPs per row of the parts of a training step, for the masks that apply."""

from collections.abc import Mapping
from dataclasses import dataclass

from pruneyard.workloads.masks.sparse_index import Mask
from pruneyard.workloads.networks.flops import forward_flops, training_flops


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """FLOPs per row.

    forward: of a forward pass.
    loss: of the forward passes of the loss, and of an extra backward pass where the objective has one (TRADES).
    step: of loss and backward pass.
    growing: of loss and backward pass with the dense gradient of all weights.
    """

    forward: float = 0.0
    loss: float = 0.0
    step: float = 0.0
    growing: float = 0.0

    @classmethod
    def of(
        cls, macs: Mapping[str, int], *, used: Mapping[str, Mask], trained: Mapping[str, Mask], extra_forwards: float
    ) -> "StepFlops":
        """Computes them from the multiply-adds of each weight; see `training_flops` for the masks.

        extra_forwards: forward passes of the objective beyond the first.
        """
        forward = forward_flops(macs, used)
        extra = extra_forwards * forward
        return cls(
            forward=forward,
            loss=forward + extra,
            step=training_flops(macs, used=used, trained=trained) + extra,
            growing=training_flops(macs, used=used, trained={}) + extra,
        )
