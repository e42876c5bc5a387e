"""The losses of the steps since the last evaluation, kept on the device so that no step waits for it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pruneyard.workloads.workload import NonFiniteError


@dataclass(kw_only=True)
class LossBuffer:
    """A buffer for the losses between two evaluations."""

    held: Tensor  # (n,), of which the first `num` are filled
    num: int = 0
    last_at: int = -1  # step of the newest loss

    @classmethod
    def of(cls, num_steps: int, device: torch.device) -> "LossBuffer":
        """Returns an empty buffer for `num_steps` steps between two evaluations."""
        return cls(held=torch.zeros(num_steps, device=device))

    def record(self, loss: Tensor, *, step: int) -> None:
        """Stores the loss of a step; steps must come in order."""
        self.held[self.num] = loss
        self.num += 1
        self.last_at = step

    def check(self) -> Tensor:
        """Returns the losses on the CPU, after waiting for the device. Raises `NonFiniteError`, naming the first bad step."""
        losses = self.held[: self.num].cpu()
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            first = int(bad[0])
            step = self.last_at - self.num + 1 + first
            raise NonFiniteError(f"train/loss is {float(losses[first])} at step {step}; {NonFiniteError.ADVICE}")
        return losses

    def take(self) -> float:
        """Returns the mean of the losses and empties the buffer. Raises `NonFiniteError` as `check` does."""
        mean = float(self.check().double().mean())
        self.num = 0
        return mean

    def resumed(self, losses: Tensor, *, step: int) -> "LossBuffer":
        """Returns a buffer that already holds the losses of a checkpoint; the next one is that of `step`.

        `losses` may be longer than this buffer: the interval between evaluations may have been larger before.
        """
        room = torch.cat([losses.to(self.held.device), torch.zeros_like(self.held)])
        return LossBuffer(held=room, num=len(losses), last_at=step - 1)
