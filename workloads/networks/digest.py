"""A digest of a network as an object: all of its attributes and tensors, and which of them are one object or share memory."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout, torch.memory_format)


def network_digest(network: nn.Module) -> str | None:
    """Returns 64 hexadecimal digits that are equal only for networks that compute the same, also after equal updates.

    Classes and functions count by their names, so both networks must be built by the same code. None for a network with
    an attribute of another class than modules, tensors, plain data and dataclasses have, or with a function that has no name.
    """
    digest = hashlib.sha256()
    try:
        for part in _parts(network, {}):
            digest.update(part + b"\0")
    except _NotComparableError:
        return None
    return digest.hexdigest()


class _NotComparableError(Exception):
    """An object whose state is not known."""


def _parts(value: Any, seen: dict[tuple[str, int], int]) -> Iterator[bytes]:
    """Yields the state of an object, of what it holds, and so on. seen: the numbers of objects and of memory by address."""
    if isinstance(value, _PLAIN):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, type) or (callable(value) and not isinstance(value, nn.Module)):
        yield _name(value)
    elif (place := ("object", id(value))) in seen:
        yield f"again {seen[place]}".encode()
    else:
        seen[place] = len(seen)
        yield _name(type(value))
        yield from _contents(value, seen)


def _contents(value: Any, seen: dict[tuple[str, int], int]) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        memory = seen.setdefault(("memory", value.untyped_storage().data_ptr()), len(seen))
        yield repr((value.dtype, value.shape, value.stride(), value.storage_offset(), memory, value.requires_grad)).encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        yield from _parts(vars(value), seen)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _parts(key, seen)
            yield from _parts(item, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item, seen)
    elif isinstance(value, set | frozenset):
        yield repr(sorted(map(repr, value))).encode()
    elif isinstance(value, nn.Module) or dataclasses.is_dataclass(value):
        yield from _parts(vars(value), seen)
    else:
        raise _NotComparableError
    yield b"end"


def _name(value: Any) -> bytes:
    name = getattr(value, "__qualname__", "<")
    if "<" in name or getattr(value, "__self__", None) is not None:  # a lambda or a local function, a bound method
        raise _NotComparableError
    return f"{value.__module__}.{name}".encode()
