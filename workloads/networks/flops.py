"""The FLOPs of sparse training: multiply-adds per layer, and FLOPs per sample of a forward pass and of a step.

A multiply-add counts as two FLOPs. Convolutions and matrix products count, those with a masked weight in proportion to its
density; norms, activations, biases, the loss and the optimizer do not. Products of two activations, as in attention, are
always dense. These are the FLOPs of the active weights, whether or not sparse kernels run.
Reference: Evci et al. 2020, Rigging the Lottery, appendix H (arXiv:1911.11134).
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pruneyard.workloads.masks.masks import layer_densities, prunable_weights
from pruneyard.workloads.masks.sparse_index import Mask
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.deferred_compiler import defer_compiler

_COPYING = {torch.ops.aten.clone, torch.ops.aten._to_copy}  # as einsum and a cast do with a weight
_ADDING = {torch.ops.aten.addmm, torch.ops.aten.baddbmm}  # whose first argument is added to the product

OTHER_PRODUCTS = "products without a prunable weight"  # key of their multiply-adds, which no mask reduces


_addmm, _relu = torch.ops.aten.addmm.default, torch.ops.aten.relu.default


def _added_product(added: Tensor, first: Tensor, second: Tensor, **scales: Any) -> Tensor:
    fits = first.shape[1] == second.shape[0] and added.shape == second.shape[1:] and first.dtype == second.dtype == added.dtype
    if not (first.is_meta and fits):  # torch knows what to do, or what to say
        result: Tensor = _addmm(added, first, second, **scales)
        return result
    return first.new_empty((first.shape[0], second.shape[1]))


def _rectified(tensor: Tensor) -> Tensor:
    if not tensor.is_meta:
        result: Tensor = _relu(tensor)
        return result
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _flops_of_added_product(added: Tensor, first: Tensor, second: Tensor, **_: Any) -> int:
    return 2 * first.shape[0] * first.shape[1] * second.shape[1]


_aten = torch.ops.aten
_OPERATORS_OF_MLP = {_aten.addmm: _flops_of_added_product} | dict.fromkeys((_aten.empty, _aten.relu, _aten.t, _aten.view))


@cache
def _formula(operator: Any) -> Callable[..., int] | None:
    """Returns what counts the FLOPs of an operator, a multiply-add as two; None without a formula."""
    if operator in _OPERATORS_OF_MLP:
        return _OPERATORS_OF_MLP[operator]
    from torch.utils.flop_counter import flop_registry  # takes 0.15 s, since it imports Triton

    found: Callable[..., int] | None = flop_registry.get(operator)
    return found


# The operators of an MLP: on the meta device, torch's own import SymPy first, which takes a third of a second.
_WITHOUT_SYMPY = {_addmm: _added_product, _relu: _rectified}


class ProductCounter(TorchDispatchMode):
    """Counts the FLOPs of every operation that torch has a formula for: convolutions and matrix products.

    by_factors: by the identities of the factors' storages, which views of a weight share; a copy counts as its original. For
    tensors on the meta device, whose copies cost nothing: all of them are kept as long as the counter.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_factors: Counter[frozenset[int]] = Counter()
        self._originals: dict[int, int] = {}  # by copy
        self._copies: list[Tensor] = []  # kept, so that no other tensor gets the identity of one

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = _WITHOUT_SYMPY.get(function, function)(*args, **(kwargs or {}))
        formula = _formula(function._overloadpacket)
        if formula is not None:
            factors = args[1:] if function._overloadpacket in _ADDING else args  # a bias is no factor
            tensors = [leaf for leaf in tree_leaves(factors) if isinstance(leaf, Tensor) and leaf.ndim > 1]
            flops = formula(*args, **(kwargs or {}), out_val=result)
            self.by_factors[frozenset(map(self._original, tensors))] += flops
        elif function._overloadpacket in _COPYING:
            self._originals[storage_of(result)] = self._original(args[0])
            self._copies.append(result)
        return result

    def _original(self, tensor: Tensor) -> int:
        """Returns the identity of a tensor's storage, or of the one that it was copied from."""
        return self._originals.get(storage_of(tensor), storage_of(tensor))


def storage_of(tensor: Tensor) -> int:
    """Returns the identity of a tensor's storage; unlike its address, it also differs between tensors on the meta device."""
    return int(tensor.untyped_storage()._cdata)


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Multiply-adds per sample of a forward pass.

    by_weight: of the products with each prunable weight, by parameter name; 0 if the forward pass does not multiply by it.
    other: of all other products, which no mask reduces: of two activations, of parameters that are not prunable, of values
        computed from weights.
    dense_factors: the parameters that are not prunable and that the forward pass multiplies by.
    """

    by_weight: dict[str, int]
    other: int
    dense_factors: tuple[str, ...]


def count_macs(model: nn.Module, image_shape: tuple[int, ...]) -> Macs:
    """Counts the multiply-adds of a forward pass in eval mode. Every use of a weight counts, by whatever function.

    `image_shape` is (C, H, W). Runs a copy on the meta device with one image: `model`, its mode and its statistics do not change,
    and no random number is sampled.
    """
    defer_compiler()
    twin = without_storage(model).eval()
    dtype = next((parameter.dtype for parameter in twin.parameters()), torch.float32)
    with torch.no_grad(), ProductCounter() as counter:
        twin(torch.empty((1, *image_shape), dtype=dtype, device="meta"))
    names = {storage_of(weight): name for name, weight in prunable_weights(twin).items()}
    by_weight, other = dict.fromkeys(names.values(), 0), 0
    for factors, flops in counter.by_factors.items():
        match [names[factor] for factor in factors if factor in names]:
            case [name]:
                by_weight[name] += flops // 2
            case _:
                other += flops // 2
    factors = frozenset[int]().union(*counter.by_factors)
    dense = [n for n, p in twin.named_parameters() if n not in by_weight and storage_of(p) in factors]
    return Macs(by_weight=by_weight, other=other, dense_factors=tuple(dense))


def layer_macs(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, int]:
    """Returns the multiply-adds per sample of every prunable weight, by parameter name, as `count_macs` does."""
    return count_macs(model, image_shape).by_weight


def network_macs(model: nn.Module, image_shape: tuple[int, ...]) -> dict[str, int]:
    """Returns `layer_macs`, and under the name `OTHER_PRODUCTS` the multiply-adds of all other products if there are any."""
    macs = count_macs(model, image_shape)
    return macs.by_weight | ({OTHER_PRODUCTS: macs.other} if macs.other else {})


@cache
def macs_of(model: ModelBuilder, image_shape: tuple[int, ...], num_classes: int) -> Mapping[str, int]:
    """Returns `network_macs` of the network that a model table describes, cached per process."""
    defer_compiler()  # initialisation on the meta device also calls reference implementations
    with torch.device("meta"):
        network = model.build(image_shape=image_shape, num_classes=num_classes)
    return MappingProxyType(network_macs(network, image_shape))


def forward_flops(macs: Mapping[str, int], masks: Mapping[str, Mask]) -> float:
    """Returns the FLOPs per sample of a forward pass; what has no mask counts as dense."""
    densities = layer_densities(masks)
    return sum(2 * count * densities.get(name, 1.0) for name, count in macs.items())


def training_flops(
    macs: Mapping[str, int], *, used: Mapping[str, Mask], trained: Mapping[str, Mask]
) -> float:
    """Returns the FLOPs per sample of a forward and a backward pass.

    A backward pass costs two forward passes: one for the gradient of activations, one for that of weights. The forward pass and
    the former count the weights `used`, the latter those `trained`; without masks, as for growth by gradient, all weights.
    """
    return 2 * forward_flops(macs, used) + forward_flops(macs, trained)


def without_storage(model: nn.Module) -> nn.Module:
    """Returns a deep copy on the meta device; a memo of meta tensors keeps `deepcopy` from copying any value."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    return copy.deepcopy(model, memo)
