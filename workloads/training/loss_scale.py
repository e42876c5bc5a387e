"""Loss scaling, which keeps small gradients from underflowing in float16."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.workload import NonFiniteError

FIRST, SMALLEST = 2.0**16, 2.0**-24  # initial scale, and the scale below which overflow is the network's fault
GROW_EVERY = 2000  # steps in a row without overflow after which the scale is doubled


class LossScale(Protocol):
    """A factor by which the loss is multiplied and its gradient divided again. The neutral member is `UnscaledLoss`."""

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Returns the scaled loss, of which the gradient is computed."""
        ...

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divides the scale out of `.grad` and records whether a gradient is not finite."""
        ...

    def must_retry(self) -> bool:
        """Returns whether a gradient overflowed since the last call; if so, lowers the scale for the recomputation."""
        ...

    def finish_step(self) -> bool:
        """Returns whether all gradients of the step are finite, and adapts the scale. Called once at the end of every step."""
        ...

    def state(self) -> Mapping[str, float]:
        """Returns the plain numbers to store in a checkpoint."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Restores a state that `state` returned."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Returns metrics for the split `train`, by name."""
        ...


class UnscaledLoss:
    """No scaling, for precisions with the exponent range of float32."""

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Returns the loss unchanged."""
        return loss

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Does nothing."""

    def must_retry(self) -> bool:
        """Returns False: gradients are not checked."""
        return False

    def finish_step(self) -> bool:
        """Returns True: numbers that are not finite show in the loss."""
        return True

    def state(self) -> Mapping[str, float]:
        """Returns no numbers."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Does nothing."""

    def metrics(self) -> Mapping[str, float]:
        """Returns no metrics."""
        return {}


@dataclass(kw_only=True)
class DynamicLossScale:
    """A scale that every overflow halves and `GROW_EVERY` steps without overflow double.

    The scale is a power of two, so dividing it out causes no rounding in float32. Every step waits for the device once, to
    read whether a gradient overflowed.
    Reference: Micikevicius et al. 2018, Mixed Precision Training (arXiv:1710.03740).
    """

    device: torch.device
    scale: float
    num_usable: int = 0  # steps without overflow since the last change of the scale
    num_skipped: int = 0  # steps that an overflow left without effect
    _overflow: Tensor = field(init=False)  # (): 1 after an overflow

    def __post_init__(self) -> None:
        self._overflow = torch.zeros((), device=self.device)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Returns the scaled loss in float32."""
        return loss.float() * self.scale

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divides and checks all gradients in one pass."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        inverse = torch.full_like(self._overflow, 1 / self.scale)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._overflow, inverse)

    def must_retry(self) -> bool:
        """Returns whether a gradient overflowed, after halving the scale."""
        if not self._overflowed():
            return False
        self._halve()
        return True

    def finish_step(self) -> bool:
        """Returns whether all gradients are finite; counts the step, and halves or doubles the scale."""
        if self._overflowed():
            self._halve()
            self.num_skipped += 1
            return False
        self.num_usable += 1
        if self.num_usable == GROW_EVERY:
            self.scale, self.num_usable = 2 * self.scale, 0
        return True

    def state(self) -> Mapping[str, float]:
        """Returns the scale and the counters."""
        return {"scale": self.scale, "num_usable": self.num_usable, "num_skipped": self.num_skipped}

    def restore(self, state: Mapping[str, float]) -> None:
        """Restores the scale and the counters."""
        self.scale = float(state["scale"])
        self.num_usable, self.num_skipped = int(state["num_usable"]), int(state["num_skipped"])
        self._overflow.zero_()

    def metrics(self) -> Mapping[str, float]:
        """Returns the number of steps so far that an overflow left without effect."""
        return {"skipped_steps": float(self.num_skipped)}

    def _overflowed(self) -> bool:
        """Returns whether a gradient overflowed since the last call."""
        overflowed = bool(self._overflow)
        self._overflow.zero_()
        return overflowed

    def _halve(self) -> None:
        """Halves the scale. Raises `NonFiniteError` if it is so small that it cannot be the cause of the overflow."""
        if self.scale <= SMALLEST:
            raise NonFiniteError(f"gradients are not finite even with the loss scaled by {self.scale}; lower the rate")
        self.scale, self.num_usable = self.scale / 2, 0


def make_loss_scale(precision: str, device: torch.device) -> LossScale:
    """Returns the loss scale for a precision. Raises `ValueError` if float16 is asked for and the device cannot compute in it."""
    if precision != "float16":
        return UnscaledLoss()
    if not can_train_in_float16(device):
        raise ValueError(
            f"precision is float16, in which {device} cannot train; it must be float32 or bfloat16"
        )
    return DynamicLossScale(device=device, scale=FIRST)


def can_train_in_float16(device: torch.device) -> bool:
    """Returns whether a convolution and a linear layer run forward and backward in float16 on the device, by trying it."""
    kernel = torch.ones(2, 1, 3, 3, device=device, requires_grad=True)
    matrix = torch.ones(2, 8, device=device, requires_grad=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for an unknown type, autocast only warns and disables itself
            with torch.autocast(device.type, dtype=torch.float16):
                features = functional.conv2d(torch.ones(2, 1, 4, 4, device=device), kernel)
                outputs = functional.linear(features.flatten(1), matrix)
        outputs.float().sum().backward()
    except RuntimeError:  # the kernels of each device raise different messages
        return False
    return outputs.dtype == torch.float16
