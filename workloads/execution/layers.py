"""The layers of a training network that are stored sparse, and how a weight and its optimizer state change their form."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from pruneyard.workloads.execution.attention import AttentionOfLayers, can_call_projections
from pruneyard.workloads.execution.deferred import MIN_SIZE, DeferredWeight
from pruneyard.workloads.execution.lookups import lookups_per_image
from pruneyard.workloads.execution.measurement import is_lookup_faster, is_sparse_faster
from pruneyard.workloads.execution.modules import (
    Replaceable,
    SparseLayer,
    can_be_sparse,
    main_weight,
    sparse_layer,
)
from pruneyard.workloads.execution.stored_weight import StoredWeight
from pruneyard.workloads.masks.sparse_index import Mask, SparseIndex
from pruneyard.workloads.masks.stored_weights import encode
from pruneyard.workloads.networks.weight_reads import weights_read_directly
from pruneyard.workloads.ranks import Ranks, Share

Execution = Literal["masked", "sparse", "auto"]
MAX_DENSITY = 0.5
"""Up to this density a layer can be stored sparse. Values, indices and optimizer state of a denser one take more memory."""


class SparseLayers:
    """The prunable weights of a network of which only the active values are stored.

    A weight keeps its `nn.Parameter` when its form changes: the data becomes `(num_active,)` and back, so that the optimizer and
    all other holders of the parameter stay valid. Its layer is replaced in the network.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: Mapping[str, nn.Parameter],
        *,
        execution: Execution,
        image_shape: tuple[int, ...],
        macs: Mapping[str, int],
        share: Share,
        ranks: Ranks,
        deferred: Mapping[str, DeferredWeight] = MappingProxyType({}),
    ) -> None:
        """Stores no weight sparse yet.

        macs: multiply-adds per image by weight name.
        share: the rows of a batch on this rank.
        deferred: weights that exist as placeholders only; `store` must be called for each before the first step.
        """
        self.indices: dict[str, SparseIndex] = {}
        self.shapes = {name: weight.shape for name, weight in weights.items()}
        self.sizes = {name: weight.numel() for name, weight in weights.items()}
        self.choices: dict[str, tuple[int, bool]] = {}  # of `auto`: active weights when measured, and whether sparse was faster
        self._network, self._weights, self._deferred = network, weights, dict(deferred)
        self._execution, self._macs, self._share, self._ranks = execution, macs, share, ranks
        self._candidates = candidates_of(network, weights, image_shape) if execution != "masked" else frozenset()
        self._lookups = lookups_per_image(network, image_shape) if execution == "auto" else {}
        self._dense: dict[str, list[tuple[str, Replaceable]]] = {}  # by weight name: path and replaced layer

    def takes(self, name: str, mask: Mask) -> bool:
        """Returns whether a weight is to be stored sparse under a mask; `auto` measures both forms unless it has done so."""
        num_active = mask.num_active if isinstance(mask, SparseIndex) else int(torch.count_nonzero(mask))
        if not self.can_take(name, num_active):
            return False
        if self._execution != "auto":
            return self._execution == "sparse"
        if self.choices.get(name, (-1, False))[0] != num_active:
            index = mask if isinstance(mask, SparseIndex) else SparseIndex.of_mask(mask)
            self.choices[name] = num_active, self._ranks.broadcast_from_rank_0(lambda: self._is_faster(name, index))
        return self.choices[name][1]

    @property
    def is_masked(self) -> bool:
        """Tells whether every weight stays masked."""
        return self._execution == "masked"

    def can_take(self, name: str, num_active: int) -> bool:
        """Returns whether a weight can be stored sparse with so many active entries."""
        return name in self._candidates and num_active <= MAX_DENSITY * self.sizes[name]

    def _is_faster(self, name: str, index: SparseIndex) -> bool:
        """Measures whether a weight is faster stored sparse."""
        num_images, dtype = self._share.stop - self._share.start, self._weights[name].dtype
        macs = self._macs.get(name, 0)
        if not macs and name in self._lookups:
            return is_lookup_faster(index, rows=num_images * self._lookups[name], dtype=dtype)
        # A layer that the network never calls multiplies no rows.
        return is_sparse_faster(index, rows=max(1, num_images * macs // self.sizes[name]), dtype=dtype)

    def store(self, name: str, mask: Mask, optimizer: torch.optim.Optimizer) -> SparseIndex:
        """Stores a weight and its optimizer state as the values of the mask's active entries; returns their index."""
        before = self.indices.get(name)
        if mask is before:
            return before
        index = mask if isinstance(mask, SparseIndex) else SparseIndex.of_mask(mask)
        if before is None:
            if name in self._deferred:
                self._weights[name].data = self._deferred.pop(name).at(index.places)
            else:
                self._change(name, optimizer, lambda tensor: tensor.flatten()[index.flat])
            self._replace(name, index)
        else:
            before.forget_transpose()
            self._change(name, optimizer, before.mover(index))
            for layer in self._layers(name):
                layer.index = index
        self.indices[name] = index
        return index

    def restore(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Stores a weight and its optimizer state dense again, with zeros where they were not active."""
        index = self.indices.pop(name)
        self._change(name, optimizer, index.dense)
        for path, layer in self._dense.pop(name):
            layer.train(self._network.training)
            if isinstance(layer, AttentionOfLayers):
                layer.with_index(None)
            self._network.set_submodule(path, layer)

    def add(self, name: str, dense: Tensor) -> None:
        """Adds the active entries of a dense tensor to a weight that is stored sparse."""
        with torch.no_grad():
            self._weights[name].add_(dense.flatten()[self.indices[name].flat])

    def weight(self, name: str) -> Tensor:
        """Returns a prunable weight in its dense shape, zero where not active: itself if it is stored dense, else a copy."""
        weight = self._weights[name].detach()
        return self.indices[name].dense(weight) if name in self.indices else weight

    def gradient(self, name: str) -> Tensor:
        """Returns the gradient of a prunable weight in its dense shape.

        Of a weight that is stored sparse it is computed here from what `capture` has recorded, over all ranks, which must call
        this in the same order; otherwise it is zero where the weight is not active. A weight without gradient has zeros.
        """
        weight = self._weights[name]
        if name not in self.indices:
            return torch.zeros_like(weight) if weight.grad is None else weight.grad
        stored = self.stored(name)
        if any(layer.captured for layer in self._layers(name)):
            return stored.gradient_rows(0, self.shapes[name][0]).reshape(self.shapes[name])
        return self.indices[name].dense(stored.gradient)

    def stored(self, name: str) -> StoredWeight:
        """Returns what a mask update reads of a weight that is stored sparse."""
        weight = self._weights[name]

        def gradient_rows(first: int, last: int) -> Tensor:
            shape = (last - first, self.indices[name].matrix[1])
            total = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
            for captured in (each for layer in self._layers(name) for each in layer.captured or ()):
                captured.add_rows(total, first, last)
            return self._ranks.all_reduce_sum(total * self._share.weight) if self._ranks.size > 1 else total

        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        return StoredWeight(values=weight.detach(), gradient=gradient.detach(), gradient_rows=gradient_rows)

    @contextmanager
    def capture(self, needed: bool) -> Iterator[None]:
        """Records, if needed, what dense gradients are computed from in backward passes of the block, until the next block."""
        for name in self.indices:
            for layer in self._layers(name):
                layer.captured = [] if needed else None
        yield

    def finished_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns a state dict of the network as an artifact stores it, on the CPU: with all weights in their dense shapes.

        Large weights that are stored sparse stay values and index, see `pruneyard.workloads.masks.stored_weights`.
        """
        found: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if self.is_large(name):
                found |= encode(name, tensor, self.indices[name])
            else:
                dense = self.indices[name].dense(tensor) if name in self.indices else tensor
                found[name] = dense.detach().cpu().clone()
        return found

    def is_large(self, name: str) -> bool:
        """Returns whether a weight is stored sparse and too large to be made dense."""
        return name in self.indices and self.sizes[name] >= MIN_SIZE

    @property
    def num_left_out(self) -> int:
        """Number of weights that the parameters do not hold, because they are not active."""
        return sum(index.numel() - index.num_active for index in self.indices.values())

    def _layers(self, name: str) -> list[SparseLayer]:
        """Returns the layers that compute with a weight that is stored sparse."""
        found = dict.fromkeys(self._network.get_submodule(path) for path, _ in self._dense[name])
        return [layer for layer in found if isinstance(layer, SparseLayer)]

    def _replace(self, name: str, index: SparseIndex) -> None:
        weight = self._weights[name]
        _set_modules(self._network, lambda module: _calling_projections(module, weight))
        replaced = _set_modules(
            self._network,
            lambda module: sparse_layer(module, index) if can_be_sparse(module) and main_weight(module) is weight else None,
        )
        self._dense[name] = [(path, layer) for path, layer in replaced if can_be_sparse(layer)]

    def _change(self, name: str, optimizer: torch.optim.Optimizer, form: Callable[[Tensor], Tensor]) -> None:
        """Changes the form of a weight, its gradient, and every tensor of its optimizer state that has its shape."""
        weight = self._weights[name]
        shape = weight.shape
        state = optimizer.state.get(weight, {})
        for key, buffer in state.items():
            if isinstance(buffer, Tensor) and buffer.shape == shape:
                state[key] = form(buffer)
        gradient, weight.grad = weight.grad, None  # torch checks that a gradient has the shape of its parameter
        weight.data = form(weight.detach())
        weight.grad = None if gradient is None else form(gradient)


def candidates_of(network: nn.Module, weights: Mapping[str, nn.Parameter], image_shape: tuple[int, ...]) -> frozenset[str]:
    """Returns the names of the prunable weights that can be stored sparse: those of which only layers that can be sparse read."""
    modules = {path: module for path, module in network.named_modules() if module is not network}
    layers = [module for module in modules.values() if can_be_sparse(module)]
    attentions = {path: module for path, module in modules.items() if can_call_projections(module)}
    projections = [module.out_proj for module in attentions.values()]
    replaced: set[nn.Module] = {*layers, *attentions.values(), *projections}
    others = {id(parameter) for m in network.modules() if m not in replaced for parameter in m.parameters(recurse=False)}
    packed = [module.in_proj_weight for module in attentions.values()]
    possible = {id(weight) for weight in (*map(main_weight, layers), *packed, *(layer.weight for layer in projections))}
    names = {id(weight): name for name, weight in weights.items()}
    readers = {
        names[id(weight)]: path
        for path, module in attentions.items()
        for weight in (module.in_proj_weight, module.out_proj.weight)
        if id(weight) in names
    }
    read_directly = weights_read_directly(network, image_shape, readers=readers)
    return frozenset(
        name
        for name, weight in weights.items()
        if id(weight) in possible and id(weight) not in others and name not in read_directly
    )


def _calling_projections(module: nn.Module, weight: nn.Parameter) -> AttentionOfLayers | None:
    """Returns what replaces torch's attention if the weight is one of its projections."""
    if can_call_projections(module) and (module.in_proj_weight is weight or module.out_proj.weight is weight):
        return AttentionOfLayers(module)
    return None


def _set_modules(network: nn.Module, replace: Callable[[nn.Module], nn.Module | None]) -> list[tuple[str, nn.Module]]:
    """Replaces modules of a network where `replace` returns another; returns paths and replaced modules."""
    paths: dict[nn.Module, list[str]] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    made = {module: other for module in paths if (other := replace(module)) is not None}
    for module, other in made.items():
        for path in paths[module]:
            network.set_submodule(path, other)
    return [(path, module) for module in made for path in paths[module]]
