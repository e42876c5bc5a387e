"""Digests classes and functions that no module holds, such as those of a notebook, by their source and what it refers to.

The digest covers, for a function, its source text (for a lambda, or where there is none, its bytecode), its defaults, and the
globals and outer variables that it refers to; for a class, its bases, methods, attributes and annotations. What these refer to is
covered in the same way: classes and functions that can be imported by the source of their module, installed ones by their name,
and values by their content. Other objects enter by their type only, and `unseen` names them.
"""

import dataclasses
import dis
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from logging import Logger
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from pruneyard.workloads.user_code.references import importable_name
from pruneyard.workloads.user_code.source_code import is_installed, is_ours, module_digest

_PLAIN = (type(None), bool, int, float, complex, str, type(Ellipsis), PurePath, torch.dtype, torch.device, np.dtype)
_BOOKKEEPING = {
    "__module__",
    "__qualname__",
    "__dict__",
    "__weakref__",
    "__doc__",
    "__firstlineno__",
    "__static_attributes__",
    "__dataclass_fields__",
    "__dataclass_params__",
    "__abstractmethods__",
    "__slotnames__",  # stored when an instance is copied
    "__annotations__",  # covered by themselves; the others are Python's forms of them
    "__annotate__",
    "__annotate_func__",
    "__annotations_cache__",
    "_abc_impl",
}
"""Attributes of a class that say nothing about what it does, or that follow from the others."""
_GLOBAL_READS = {"LOAD_GLOBAL", "LOAD_NAME"}


@dataclass
class ObjectSource:
    """The parts of an object's source that are known.

    parts: lines of text that the digest covers. modules: the user's modules that it refers to.
    unseen: names of objects of whom only the type is covered, with that type.
    """

    parts: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    unseen: dict[str, str] = field(default_factory=dict)
    # By id, the place of each object among those seen, and the object, so that no other object gets its id.
    _seen: dict[int, tuple[int, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, obj: Any) -> "ObjectSource":
        """Returns the source of a class or function."""
        source = cls()
        source._add(getattr(obj, "__name__", ""), obj)
        return source

    @property
    def digest(self) -> str:
        """Returns 16 hexadecimal digits."""
        return hashlib.sha256("\n".join(self.parts).encode()).hexdigest()[:16]

    def _add(self, name: str, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._text(name, f"{type(value).__name__} {value!r}")
        elif id(value) in self._seen:
            place, _ = self._seen[id(value)]
            self._text(name, f"the same as object {place}")
        else:
            if not isinstance(value, tuple):  # Python shares equal tuples of constants, or not
                self._seen[id(value)] = (len(self._seen), value)
            self._add_object(name, value)

    def _add_object(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType):
            self._add_module(name, value.__name__)
        elif (isinstance(value, type) or callable(value)) and (reference := importable_name(value)) is not None:
            self._text(name, reference)
            self._add_module(name, reference.partition(":")[0])
        elif isinstance(value, FunctionType):
            self._add_function(name, value)
        elif isinstance(value, BuiltinFunctionType | Logger):  # a function of C that its module does not name
            self._text(name, getattr(value, "__qualname__", "logger"))
        elif isinstance(value, type) and not issubclass(value, Enum):
            self._add_class(name, value)
        elif (content := _content(value)) is not None:
            self._text(name, type(value).__name__)
            for part, item in content:
                self._add(f"{name}.{part}", item)
        else:
            self._text(name, f"object of {type(value).__module__}.{type(value).__qualname__}")
            self.unseen[name] = type(value).__name__

    def _text(self, name: str, text: str) -> None:
        self.parts.append(f"{name} = {text}")

    def _add_module(self, name: str, module: str) -> None:
        covered = not is_ours(module) and not is_installed(module) and module != "__main__"
        self._text(name, f"module {module} {module_digest(module) if covered else ''}")
        if covered:
            self.modules.append(module)

    def _add_function(self, name: str, function: FunctionType) -> None:
        code = function.__code__
        self._text(name, _source_of(function))
        self._add(f"{name}.defaults", function.__defaults__)
        self._add(f"{name}.kwdefaults", function.__kwdefaults__)
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:  # a variable that has no value yet
                continue
            self._add(variable, content)
        for read in sorted(set(_globals_read(code))):
            if read in function.__globals__:
                self._add(read, function.__globals__[read])
        for module in sorted(set(_modules_imported(code))):
            self._add_module(f"{name} imports", module)

    def _add_class(self, name: str, cls: type[Any]) -> None:
        self._text(name, f"class {cls.__name__}")
        for place, base in enumerate(cls.__bases__):
            self._add(f"{name}.bases[{place}]", base)
        self._text(f"{name}.annotations", repr({key: str(hint) for key, hint in inspect.get_annotations(cls).items()}))
        for member, value in sorted(vars(cls).items()):
            if member not in _BOOKKEEPING:
                self._add(f"{name}.{member}", value)


def _content(value: Any) -> list[tuple[str, Any]] | None:
    """Returns the parts of a value by name, in a fixed order; None for an object whose parts are not known."""
    match value:
        case list() | tuple():
            return [(str(place), item) for place, item in enumerate(value)]
        case set() | frozenset():
            return [("items", sorted(map(repr, value)))]
        case Mapping():
            return [(repr(key), item) for key, item in value.items()]
        case staticmethod() | classmethod() | MethodType():
            return [("function", value.__func__), ("self", getattr(value, "__self__", None))]
        case property():
            return [("get", value.fget), ("set", value.fset), ("delete", value.fdel)]
        case functools.partial():
            return [("function", value.func), ("args", value.args), ("keywords", value.keywords)]
        case functools.cached_property():
            return [("function", value.func)]
        case _ if callable(value) and hasattr(value, "__wrapped__"):  # as `functools.lru_cache` returns
            return [("wrapped", value.__wrapped__)]
        case Enum():
            return [("name", value.name), ("value", value.value)]
        case bytes() | bytearray():
            return [("bytes", hashlib.sha256(value).hexdigest())]
        case np.ndarray() | np.generic():
            return [("dtype", str(value.dtype)), ("shape", value.shape), ("bytes", _hash(np.ascontiguousarray(value)))]
        case torch.Tensor():
            numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            return [("dtype", str(value.dtype)), ("shape", tuple(value.shape)), ("bytes", _hash(numbers))]
        case type():
            return [(member.name, member.value) for member in value] if issubclass(value, Enum) else None
        case _ if dataclasses.is_dataclass(value):
            return [("type", type(value)), *((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))]
        case _:
            return None


def _hash(numbers: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(numbers.tobytes()).hexdigest()


def _source_of(function: FunctionType) -> str:
    """Returns the source text of a function; for a lambda, whose lines hold other code too, and without text its bytecode."""
    if function.__name__ != "<lambda>":
        try:
            # Of the code: of a function, `inspect` returns the source of what it wraps.
            return textwrap.dedent(inspect.getsource(function.__code__))
        except (OSError, TypeError):
            pass
    return _bytecode(function.__code__)


def _bytecode(code: CodeType) -> str:
    constants = [_constant(item) for item in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names} {code.co_varnames} {code.co_freevars}"


def _constant(item: Any) -> str:
    if isinstance(item, CodeType):
        return _bytecode(item)
    if isinstance(item, frozenset):  # whose order differs between processes
        return f"frozenset {sorted(map(_constant, item))}"
    return f"({', '.join(map(_constant, item))})" if isinstance(item, tuple) else repr(item)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield from _codes(item)


def _globals_read(code: CodeType) -> Iterator[str]:
    for each in _codes(code):
        yield from (item.argval for item in dis.get_instructions(each) if item.opname in _GLOBAL_READS)


def _modules_imported(code: CodeType) -> Iterator[str]:
    for each in _codes(code):
        yield from (item.argval for item in dis.get_instructions(each) if item.opname == "IMPORT_NAME" and item.argval)
