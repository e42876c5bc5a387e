"""The losses of the steps since an evaluation, kept where they were computed, so that no step waits for the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.workload import NonFiniteError


@dataclass(kw_only=True)
class LossLog:
    """Room for the losses between two evaluations, and how many there are."""

    held: Tensor
    num: int = 0
    last_at: int = -1  # step

    @classmethod
    def of(cls, num_steps: int, device: torch.device) -> "LossLog":
        """For so many steps between two evaluations."""
        return cls(held=torch.zeros(num_steps, device=device))

    def record(self, loss: Tensor, *, step: int) -> None:
        """Steps come in order."""
        self.held[self.num] = loss
        self.num += 1
        self.last_at = step

    def check(self) -> Tensor:
        """The losses, on the CPU; waits for the device. Raises `NonFiniteError` with the first bad step."""
        losses = self.held[: self.num].cpu()
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            first = int(bad[0])
            step = self.last_at - self.num + 1 + first
            raise NonFiniteError(f"train/loss is {float(losses[first])} at step {step}")
        return losses

    def take(self) -> float:
        """Their mean; the next ones are counted anew."""
        mean = float(self.check().double().mean())
        self.num = 0
        return mean

    def continued(self, losses: Tensor, *, step: int) -> "LossLog":
        """After these losses, the next step being `step`; they may be more than now come between two evaluations."""
        room = torch.cat([losses.to(self.held.device), torch.zeros_like(self.held)])
        return LossLog(held=room, num=len(losses), last_at=step - 1)
