"""Losses that are scaled before they are differentiated, where small gradients would vanish in half precision."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.workload import NonFiniteError

FIRST, SMALLEST = 2.0**16, 2.0**-24


GROW_EVERY = 2000  # usable steps in a row after which the scale is doubled


class LossScale(Protocol):
    """What a loss is multiplied by and its gradient divided by again. The neutral member is `Unscaled`."""

    def scaled(self, loss: Tensor) -> Tensor:
        """What is differentiated instead of the loss."""
        ...

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Makes `.grad` that of the loss itself; remembers it when one is not finite."""
        ...

    def wants_again(self) -> bool:
        """Whether a gradient since the last question overflowed, so that it must be taken again, at a smaller scale."""
        ...

    def settle(self) -> bool:
        """At the end of every step: whether no gradient of it overflowed. The scale moves."""
        ...

    def state(self) -> Mapping[str, float]:
        """What a checkpoint must hold."""
        ...

    def restore(self, state: Mapping[str, float]) -> None:
        """Stands where `state` was taken."""
        ...

    def numbers(self) -> Mapping[str, float]:
        """Reported as metrics of train."""
        ...


class Unscaled:
    """The loss as it is, in precisions with the range of float32."""

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss."""
        return loss

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """It is."""

    def wants_again(self) -> bool:
        """Never."""
        return False

    def settle(self) -> bool:
        """Every step counts: what is not finite shows in the loss."""
        return True

    def state(self) -> Mapping[str, float]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Nothing."""

    def numbers(self) -> Mapping[str, float]:
        """None."""
        return {}


@dataclass(kw_only=True)
class DynamicScale:
    """As large as float16 bears: halved by every overflow, doubled after `GROW_EVERY` steps without one.

    Powers of two, so that scaling back rounds nothing that float32 can hold. Every step waits for the device once.
    Reference: Micikevicius et al. 2018, Mixed Precision Training (arXiv:1710.03740).
    """

    device: torch.device
    scale: float
    num_usable: int = 0  # in a row
    num_skipped: int = 0
    _found: Tensor = field(init=False)  # 1 after an overflow

    def __post_init__(self) -> None:
        self._found = torch.zeros((), device=self.device)

    def scaled(self, loss: Tensor) -> Tensor:
        """In float32."""
        return loss.float() * self.scale

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """One pass that also looks for what is not finite."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        inverse = torch.full_like(self._found, 1 / self.scale)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self._found, inverse)

    def wants_again(self) -> bool:
        """After an overflow; the scale is then half of what it was."""
        if not self._overflowed():
            return False
        self._back_off()
        return True

    def settle(self) -> bool:
        """Counts the step."""
        if self._overflowed():
            self._back_off()
            self.num_skipped += 1
            return False
        self.num_usable += 1
        if self.num_usable == GROW_EVERY:
            self.scale, self.num_usable = 2 * self.scale, 0
        return True

    def state(self) -> Mapping[str, float]:
        """Scale and counters."""
        return {"scale": self.scale, "num_usable": self.num_usable, "num_skipped": self.num_skipped}

    def restore(self, state: Mapping[str, float]) -> None:
        """Scale and counters."""
        self.scale = float(state["scale"])
        self.num_usable, self.num_skipped = int(state["num_usable"]), int(state["num_skipped"])
        self._found.zero_()

    def numbers(self) -> Mapping[str, float]:
        """Steps so far that overflow left without effect."""
        return {"skipped_steps": float(self.num_skipped)}

    def _overflowed(self) -> bool:
        found = bool(self._found)
        self._found.zero_()
        return found

    def _back_off(self) -> None:
        """Raises `NonFiniteError` where the scale cannot be to blame."""
        if self.scale <= SMALLEST:
            raise NonFiniteError(f"gradients are not finite even where the loss is scaled by {self.scale}")
        self.scale, self.num_usable = self.scale / 2, 0


def scale_for(precision: str, device: torch.device) -> LossScale:
    """What a precision needs. Raises `ValueError` where the device cannot compute in float16."""
    if precision != "float16":
        return Unscaled()
    if not computes_in_float16(device):
        raise ValueError(
            f"precision is float16, in which {device} cannot train; it must be float32 or bfloat16"
        )
    return DynamicScale(device=device, scale=FIRST)


def computes_in_float16(device: torch.device) -> bool:
    """Tries: a convolution and a linear layer, forward and backward."""
    kernel = torch.ones(2, 1, 3, 3, device=device, requires_grad=True)
    matrix = torch.ones(2, 8, device=device, requires_grad=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where the type is not known, autocast says so and is off
            with torch.autocast(device.type, dtype=torch.float16):
                features = functional.conv2d(torch.ones(2, 1, 4, 4, device=device), kernel)
                outputs = functional.linear(features.flatten(1), matrix)
        outputs.float().sum().backward()
    except RuntimeError:  # whatever the kernels of a device say
        return False
    return outputs.dtype == torch.float16
