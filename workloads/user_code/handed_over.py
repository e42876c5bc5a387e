"""Keeps the objects that were handed over from Python and that no other process can import, by reference."""

import re
from dataclasses import dataclass, field
from typing import Any

from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.pickling import unpickle

_PATTERN = re.compile(r"[A-Za-z_]\w*@[0-9a-f]{16}", flags=re.ASCII)


@dataclass(kw_only=True)
class HandedOver:
    """An object that was handed over.

    pickled: the object by value, made when it was handed over.
    modules: the modules that it uses and whose source counts.
    """

    pickled: bytes
    modules: tuple[str, ...]
    _objects: list[Any] = field(default_factory=list, init=False, repr=False)

    @property
    def object(self) -> Any:
        """The object: the one that was handed over, or in another process its copy."""
        if not self._objects:
            self._objects.append(unpickle(self.pickled))
        return self._objects[0]

    @classmethod
    def of(cls, obj: Any, *, pickled: bytes, modules: tuple[str, ...]) -> "HandedOver":
        """Returns the entry of an object of this process."""
        entry = cls(pickled=pickled, modules=modules)
        entry._objects.append(obj)
        return entry


HANDED_OVER: dict[str, HandedOver] = {}
"""The objects of this process, by reference."""


def is_handed_over(name: str) -> bool:
    """Returns whether a name has the form `Name@DIGEST`."""
    return _PATTERN.fullmatch(name) is not None


def object_of(name: str) -> Any:
    """Returns the object of such a reference. Raises `UserCodeError` if it was not handed over in this process."""
    if name not in HANDED_OVER:
        raise UserCodeError(
            f"{name!r} was handed over from Python in another process; hand over the same object again, or define it in a module "
            "that can be imported, and name it package.module:Name"
        )
    return HANDED_OVER[name].object
