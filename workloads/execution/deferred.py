"""Large weights that are never allocated: while a network is built, how each is initialised is recorded instead.

A recorded weight takes no memory. Its entries can be computed later, those at given places alone, and equal those that an
ordinary weight would have: the state of the random generator is kept, and the recorded operations run again piece by piece.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MIN_SIZE = 1 << 22  # entries of a weight that is recorded; smaller ones are allocated
PIECE = 1 << 20  # entries computed at a time; a multiple of 16, the block in which torch samples normal numbers

_ATEN = torch.ops.aten
_RANDOM = {_ATEN.uniform_, _ATEN.normal_}
_ELEMENTWISE = {_ATEN.mul_, _ATEN.add_, _ATEN.sub_, _ATEN.div_, _ATEN.erfinv_, _ATEN.clamp_, _ATEN.zero_, _ATEN.fill_}
_VIEWS = {_ATEN.detach, _ATEN.alias}


class NotDeferrableError(Exception):
    """The weight is initialised by an operation that cannot be recorded."""


@dataclass(kw_only=True)
class DeferredWeight:
    """The recorded initialisation of a weight of this shape, by operations that treat every entry alike."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    operations: list[tuple[Any, Tensor | None, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def record(self, operation: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Records an operation; one that samples numbers also takes them from torch's generator, as it would have done."""
        state = torch.get_rng_state() if operation._overloadpacket in _RANDOM else None
        self.operations.append((operation, state, arguments, options))
        if state is not None:
            for size in self._sizes():
                operation(torch.empty(size, dtype=self.dtype), *arguments, **options)

    def at(self, places: Tensor) -> Tensor:
        """Returns the entries at places in the flattened weight, (n,) int64, ascending."""
        values = torch.empty(len(places), dtype=self.dtype)
        first = begin = 0
        for piece in self._pieces():
            end = int(torch.searchsorted(places, first + len(piece)))
            values[begin:end] = piece[places[begin:end] - first]
            first, begin = first + len(piece), end
        return values

    def dense(self) -> Tensor:
        """Returns the whole weight."""
        return torch.cat(list(self._pieces())).reshape(self.shape)

    def _sizes(self) -> list[int]:
        """Returns the sizes of the pieces; the last one has at least 16 entries, because torch samples fewer in another way."""
        num, rest = divmod(torch.Size(self.shape).numel(), PIECE)
        return [PIECE] * (num - 1) + [PIECE + rest] if rest < 16 else [PIECE] * num + [rest]

    def _pieces(self) -> Iterator[Tensor]:
        """Yields the entries piece after piece; torch's generator is as before after the last one."""
        before = torch.get_rng_state()
        states = [state for _, state, _, _ in self.operations]
        try:
            for size in self._sizes():
                piece = torch.zeros(size, dtype=self.dtype)
                for number, (operation, _, arguments, options) in enumerate(self.operations):
                    state = states[number]
                    if state is not None:
                        torch.set_rng_state(state)
                    operation(piece, *arguments, **options)
                    if state is not None:
                        states[number] = torch.get_rng_state()
                yield piece
        finally:
            torch.set_rng_state(before)


class RecordedStart(TorchDispatchMode):
    """A context in which `torch.empty` of a large matrix returns a placeholder without memory whose initialisation is recorded.

    Raises `NotDeferrableError` out of the context where a placeholder is used in any other way.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._deferred: dict[int, DeferredWeight] = {}  # by the address of the one number that a placeholder holds
        self._kept: list[Tensor] = []  # placeholders, so that no other tensor gets the address of one

    def of(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, DeferredWeight]:
        """Returns the recorded weights among parameters, by name."""
        found = {name: self._deferred.get(parameter.data_ptr()) for name, parameter in parameters.items()}
        return {name: deferred for name, deferred in found.items() if deferred is not None}

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if function is torch.ops.aten.empty.memory_format:
            return self._empty(function, args, options)
        tensors = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor) and leaf.device.type == "cpu"]
        touched = [deferred for tensor in tensors if (deferred := self._deferred.get(tensor.untyped_storage().data_ptr()))]
        if not touched or function._overloadpacket in _VIEWS:
            return function(*args, **options)
        is_alone = len(tensors) == 1 and options.pop("generator", None) is None
        if not is_alone or function._overloadpacket not in _RANDOM | _ELEMENTWISE:
            raise NotDeferrableError(f"{function} of a large weight cannot be recorded")
        touched[0].record(function, args[1:], options)
        return args[0]

    def _empty(self, function: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
        shape, device = args[0], torch.device(options.get("device") or "cpu")
        if len(shape) != 2 or torch.Size(shape).numel() < MIN_SIZE or device.type != "cpu":
            tensor: Tensor = function(*args, **options)
            return tensor
        dtype = options.get("dtype") or torch.get_default_dtype()
        placeholder = torch.zeros((), dtype=dtype).expand(*shape)
        self._deferred[placeholder.data_ptr()] = DeferredWeight(shape=tuple(shape), dtype=dtype)
        self._kept.append(placeholder)
        return placeholder
