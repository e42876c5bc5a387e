"""Turns the state that a function saves into what a checkpoint holds, and back: plain values, tensors, arrays, files.

Checkpoints are read with `weights_only=True`, so nothing else can be in one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (bool, int, float, str, bytes, type(None))
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_UNSIGNED = {signed: unsigned for unsigned, signed in _SIGNED.items()}


def encode_state(value: Any, at: str = "state") -> Any:
    """Returns the state as plain values and tensors.

    Raises `ValueError` for a value of another type, with its place in the state.
    """
    if isinstance(value, Tensor):
        return _encode_tensor("tensor", value.detach())
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biuf":
            raise ValueError(f"{at} is an array of {value.dtype}; a checkpoint takes arrays of numbers")
        return _encode_tensor("array", torch.from_numpy(np.array(value)))
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in _PLAIN:  # a subclass, such as NumPy's text, would make the checkpoint unreadable
                raise ValueError(f"{at} has the key {key!r}, a {type(key).__name__}; keys must be str, int or float")
        return ("table", {key: encode_state(item, f"{at}[{key!r}]") for key, item in value.items()})
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return (kind, [encode_state(item, f"{at}[{place}]") for place, item in enumerate(value)])
    if type(value) in _PLAIN:
        return ("value", value)
    raise ValueError(
        f"{at} is a {type(value).__name__}; a checkpoint takes tensors, arrays, numbers, text, and tables and lists of them, "
        "such as what state_dict() returns; save anything else to files and give their folder"
    )


def decode_state(encoded: Any) -> Any:
    """Returns the state that was encoded; tensors are on the CPU."""
    kind, content = encoded
    if kind.startswith("unsigned "):
        kind, content = kind.removeprefix("unsigned "), content.view(_UNSIGNED[content.dtype])
    if kind == "array":
        return content.numpy()
    if kind == "table":
        return {key: decode_state(item) for key, item in content.items()}
    if kind in ("list", "tuple"):
        items = [decode_state(item) for item in content]
        return items if kind == "list" else tuple(items)
    return content


def _encode_tensor(kind: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Returns a tensor that can be sent between ranks: torch cannot unpickle unsigned numbers of more than one byte."""
    signed = _SIGNED.get(tensor.dtype)
    return (kind, tensor) if signed is None else (f"unsigned {kind}", tensor.view(signed))


def encode_folder(folder: Path) -> Any:
    """Returns every file below a folder, by its path relative to it. Raises `ValueError` if there is no such folder."""
    if not folder.is_dir():
        raise ValueError(f"folder is {folder}; there is no such folder")
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    # Nothing for an empty file, of which there is no tensor.
    tensors = {
        name: torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else None
        for name, data in files.items()
    }
    return "folder", tensors


def decode_folder(encoded: Any, into: Path) -> None:
    """Writes the files that were encoded below a folder. Raises `ValueError` for a file that would lie outside of it."""
    _, files = encoded
    into.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = into / name
        if not path.resolve().is_relative_to(into.resolve()):
            raise ValueError(f"the checkpoint has a file {name!r}, which lies outside its folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if content is None else content.numpy().tobytes())


def is_folder(encoded: Any) -> bool:
    """Returns whether an encoded state is that of a folder."""
    return bool(encoded[0] == "folder")
