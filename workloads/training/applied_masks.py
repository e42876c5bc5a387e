"""Applies the masks of a method and weight dropout to the prunable weights of a network."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState
from pruneyard.workloads.training.weight_dropout import WeightDropout

Entries = tuple[Tensor, ...]
"""Indices of entries of a tensor, one index tensor per dimension."""


class AppliedMasks:
    """The prunable weights of a network with the masks of a method applied.

    When masks change, weights, gradients and optimizer state outside them are set to zero; from then on masked gradients
    keep them at zero.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        *,
        method: MaskUpdater,
        dropout: WeightDropout,
        stream_of: Callable[[int], torch.Generator | None],
    ) -> None:
        """stream_of: returns the generator of a step's weight dropout, or None for a step without it, as for a mask update."""
        self.weights, self.state = weights, SparseState({})
        self._method, self._dropout, self._stream_of = method, dropout, stream_of
        self._factors: dict[str, Tensor] = {}  # masks in the dtype and layout of their weights
        self._forward_factors: dict[str, Tensor] = {}
        self._decay: Tensors = {}
        self._active: dict[str, Entries] = {}  # active entries of the layers with weight dropout

    def apply(self, state: SparseState, optimizer: torch.optim.Optimizer) -> None:
        """Applies a state of the method to weights, gradients and optimizer state, on the weights' device."""
        device = next(iter(self.weights.values())).device if self.weights else torch.device("cpu")

        def to_device(tensors: Tensors) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        self.state = SparseState(to_device(state.masks), to_device(state.tensors), to_device(state.forward))
        self._factors = self._as_factors(self.state.masks, reuse=self._factors)
        self._forward_factors = self._as_factors(self.state.forward, reuse=self._forward_factors)
        for name, factor in self._factors.items():
            weight = self.weights[name]
            with torch.no_grad():
                weight.mul_(factor)
                if name in state.revived:
                    weight.add_(state.revived[name])
            for buffer in optimizer.state.get(weight, {}).values():
                if isinstance(buffer, Tensor) and buffer.shape == weight.shape:
                    buffer.mul_(factor)
        self._decay = to_device(self._method.extra_decay(self.state))
        self._active = {name: self._active_entries(name) for name in self._dropout.layers(self.weights)}
        self.mask_gradients()

    def mask_gradients(self) -> None:
        """Sets gradients outside masks to zero, so that weight, gradient and momentum stay exactly zero there."""
        masked = [
            (grad, f) for name, f in self._factors.items() if (grad := self.weights[name].grad) is not None
        ]
        if masked:
            gradients, factors = zip(*masked, strict=True)
            torch._foreach_mul_(gradients, factors)

    def add_extra_decay(self) -> None:
        """Adds the extra weight decay of the method to the gradients."""
        for name, factor in self._decay.items():
            weight = self.weights[name]
            if weight.grad is not None:
                weight.grad.addcmul_(factor, weight.detach())

    def step_weights(self, step: int) -> AbstractContextManager[None]:
        """Returns a context in which the weights are those that this step computes with, and gradients match them.

        It applies forward masks and weight dropout to whatever weights the network holds on entry, and restores these weights
        after the block.
        """
        if not (self._forward_factors or self._active):
            return nullcontext()
        return self._masked_forward(self._sample_dropout(step))

    def final_weights(self) -> AbstractContextManager[None]:
        """Returns a context in which the weights are those of the finished network: forward masks applied, no dropout."""
        return self._masked_forward({}) if self._forward_factors else nullcontext()

    def sample(self, step: int) -> dict[str, Tensor]:
        """Returns copies of the prunable weights as this step computes with them."""
        with self.step_weights(step):
            return {name: weight.detach().clone() for name, weight in self.weights.items()}

    @contextmanager
    def _masked_forward(self, dropped: Mapping[str, Entries]) -> Iterator[None]:
        """Replaces the weights for the block; `dropped` entries are zero in it.

        After the block the gradients are converted to those of the restored weights: zero where dropped, else scaled as the
        weights were.
        """
        before, scale = {}, self._dropout.scale
        for name in {**self._forward_factors, **dropped}:
            weight = self.weights[name]
            before[name] = weight.data
            has_forward_mask = name in self._forward_factors
            masked = weight.data * self._forward_factors[name] if has_forward_mask else weight.data.clone()
            if name in dropped:
                masked[dropped[name]] = 0
                masked.mul_(scale)
            weight.data = masked
        try:
            yield
        finally:
            for name, data in before.items():
                self.weights[name].data = data
            for name, entries in dropped.items():
                gradient = self.weights[name].grad
                if gradient is not None:
                    gradient[entries] = 0
                    gradient.mul_(scale)

    def _sample_dropout(self, step: int) -> dict[str, Entries]:
        """Returns the entries that weight dropout sets to zero in this step, by weight name."""
        generator = self._stream_of(step)
        if generator is None:
            return {}
        return {name: self._sample_entries(entries, generator) for name, entries in self._active.items()}

    def _sample_entries(self, entries: Entries, generator: torch.Generator) -> Entries:
        """Returns a random part of the given entries."""
        chosen = self._dropout.draw(len(entries[0]), generator).to(entries[0].device)
        return tuple(index[chosen] for index in entries)

    def _active_entries(self, name: str) -> Entries:
        """Returns the entries of a weight that the network computes with."""
        mask = self.state.used.get(name, torch.ones_like(self.weights[name], dtype=torch.bool))
        return mask.nonzero(as_tuple=True)

    def _as_factors(self, masks: Tensors, *, reuse: Tensors) -> dict[str, Tensor]:
        """Returns masks in the dtype of their weights, written into the weight-sized tensors of `reuse` where there are some."""
        return {
            name: (reuse[name] if name in reuse else torch.empty_like(self.weights[name])).detach().copy_(mask)
            for name, mask in masks.items()
        }
