"""Applies the masks of a method and weight dropout to the prunable weights of a network.

A weight that is stored sparse has an index for a mask, see `pruneyard.workloads.execution`; all others are multiplied by theirs.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from pruneyard.workloads.execution.dense_views import DenseViews
from pruneyard.workloads.execution.layers import SparseLayers
from pruneyard.workloads.execution.stored_weight import StoredWeight
from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.masks.sparse_index import Mask, dense_mask, full_mask, is_full
from pruneyard.workloads.training.mask_updater import (
    MaskUpdater,
    PrunesToIndices,
    SparseState,
    UpdatesIndices,
)
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
        layers: SparseLayers,
        last: str,
    ) -> None:
        """stream_of: returns the generator of a step's weight dropout, or None for a step without it, as for a mask update.

        last: the name of the weight of the network's last layer.
        """
        self.weights, self.layers, self._last = weights, layers, last
        self.masks: dict[str, Mask] = {}  # of the trained weights
        self.tensors: Tensors = {}  # further tensors of the method
        self.forward: dict[str, Tensor] = {}  # masks of the weights that the network computes with, where these are fewer
        self._method, self._dropout, self._stream_of = method, dropout, stream_of
        self._factors: dict[str, Tensor] = {}  # masks with zeros, in the dtype and layout of their weights
        self._forward_factors: dict[str, Tensor] = {}
        self._decay: Tensors = {}
        self._active: dict[str, Entries] = {}  # active entries of the layers with weight dropout

    def apply(self, state: SparseState, optimizer: torch.optim.Optimizer) -> None:
        """Applies a state of the method to weights, gradients and optimizer state, on the weights' device."""
        device = next(iter(self.weights.values())).device if self.weights else torch.device("cpu")

        def to_device(tensors: Tensors) -> dict[str, Tensor]:
            return {name: tensor.to(device) for name, tensor in tensors.items()}

        self.tensors, self.forward = to_device(state.tensors), to_device(state.forward)
        masks: dict[str, Mask] = {**state.masks, **state.indices}
        self.masks = {name: self._applied(name, mask.to(device), state, optimizer) for name, mask in masks.items()}
        factors = {name: mask for name, mask in self.masks_of_dense_layers(self.masks).items() if not is_full(mask)}
        self._factors = self._as_factors(factors, reuse=self._factors)
        self._forward_factors = self._as_factors(self.forward, reuse=self._forward_factors)
        for name, factor in self._factors.items():
            weight = self.weights[name]
            weight.data.mul_(factor)
            for buffer in optimizer.state.get(weight, {}).values():
                if isinstance(buffer, Tensor) and buffer.shape == weight.shape:
                    buffer.mul_(factor)
        for name in state.revived.keys() & self.masks_of_dense_layers(self.masks).keys():
            self.weights[name].data.add_(state.revived[name])
        self._decay = {n: self._stored(n, factor) for n, factor in to_device(self._method.extra_decay(self.state)).items()}
        self._active = {name: self._active_entries(name) for name in self._dropout.layers(self.weights, last=self._last)}
        self.mask_gradients()

    @property
    def prunes_to_indices(self) -> bool:
        """Returns whether the method gives an index to a weight that is to be stored sparse."""
        return isinstance(self._method, PrunesToIndices) and self._method.prunes_to_indices

    @property
    def updates_indices(self) -> bool:
        """True if the method updates the indices of weights that are stored sparse, and so needs no masks of them."""
        return self.prunes_to_indices or (isinstance(self._method, UpdatesIndices) and self._method.updates_indices)

    def can_be_index(self, name: str, num_active: int) -> bool:
        """Returns whether the method may give a weight with so many active entries an index in place of a mask."""
        return self.prunes_to_indices and self.layers.can_take(name, num_active)

    @property
    def stored(self) -> Mapping[str, StoredWeight]:
        """The parts of weights that are stored sparse which the method reads, if it updates their indices."""
        return {name: self.layers.stored(name) for name in self.layers.indices} if self.updates_indices else {}

    @property
    def used(self) -> dict[str, Mask]:
        """The masks of the weights that the network computes with; density and FLOPs refer to these."""
        return {**self.masks, **self.forward}

    @property
    def state(self) -> SparseState:
        """The state of the method: with the indices of weights that are stored sparse, or with their masks, made on access."""
        tensors = self.masks_of_dense_layers(self.masks)
        if self.updates_indices or len(tensors) == len(self.masks):
            return SparseState(tensors, dict(self.tensors), self.forward, indices=dict(self.layers.indices))
        return SparseState(DenseViews(self.masks, lambda name: dense_mask(self.masks[name])), dict(self.tensors), self.forward)

    @staticmethod
    def masks_of_dense_layers(masks: Mapping[str, Mask]) -> dict[str, Tensor]:
        """Returns those of the masks whose weights are stored dense."""
        return {name: mask for name, mask in masks.items() if isinstance(mask, Tensor)}

    def _applied(self, name: str, mask: Mask, state: SparseState, optimizer: torch.optim.Optimizer) -> Mask:
        """Stores a weight in the form that it has under a mask; returns the mask of this form."""
        if name not in state.forward and self.layers.takes(name, mask):
            self._factors.pop(name, None)  # freed layer by layer
            index = self.layers.store(name, mask, optimizer)
            if name in state.revived:
                self.layers.add(name, state.revived[name])
            return index
        if name in self.layers.indices:
            self.layers.restore(name, optimizer)
        dense = dense_mask(mask)
        return full_mask(tuple(dense.shape), dense.device) if bool(dense.all()) else dense

    def _stored(self, name: str, dense: Tensor) -> Tensor:
        """Returns a tensor of a weight's shape in the form in which the weight is stored."""
        return dense.flatten()[self.layers.indices[name].flat] if name in self.layers.indices else dense

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
        """Returns the entries of a weight, as it is stored, that the network computes with."""
        mask = self.used.get(name)
        stored = mask if isinstance(mask, Tensor) else torch.ones_like(self.weights[name], dtype=torch.bool)
        return stored.nonzero(as_tuple=True)

    def _as_factors(self, masks: Tensors, *, reuse: Tensors) -> dict[str, Tensor]:
        """Returns masks in the dtype of their weights, written into the weight-sized tensors of `reuse` where there are some."""
        return {
            name: (reuse[name] if name in reuse else torch.empty_like(self.weights[name])).detach().copy_(mask)
            for name, mask in masks.items()
        }
