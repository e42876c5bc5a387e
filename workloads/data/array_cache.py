"""Caches arrays that are slow to compute on disk, under a hash of their inputs."""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pruneyard.workloads.data.file_states import state_of
from pruneyard.workloads.data.folders import cache_folder

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=np.generic)


def cached_array(
    make: Callable[[], npt.NDArray[np.uint8]], *, files: Iterable[Path], options: str
) -> npt.NDArray[np.uint8]:
    """Returns the array that `make` computes from `files` and `options`, as a read-only memory map.

    The array is computed again if a file changes; see `file_states`. If the cache cannot be written, the
    array stays in memory and a warning is logged.
    """
    return _load_or_make(make, file_states(files, options))


def cached_by_key(make: Callable[[], npt.NDArray[T]], *, key: str) -> npt.NDArray[T]:
    """Returns the array that `make` computes, as `cached_array` does. `key` is any text that identifies all inputs."""
    return _load_or_make(make, file_states([], key))


def _load_or_make(make: Callable[[], npt.NDArray[T]], name: str) -> npt.NDArray[T]:
    path = cache_folder() / "arrays" / f"{name}.npy"
    if path.exists():
        try:
            return _memory_map(path)
        # A damaged cache must not stop a run: the file is replaced.
        except (EOFError, OSError, ValueError) as error:
            logger.warning("The cached array %s cannot be read and is computed again: %s", path, error)
    array = make()
    try:
        _write(path, array)
        return _memory_map(path)
    except OSError as error:
        logger.warning("The cache %s cannot be written, so the array is kept in memory: %s", path.parent, error)
        return array


def file_states(files: Iterable[Path], options: str) -> str:
    """Returns 32 hexadecimal digits over `options`, and path and state of every file; see `state_of`."""
    digest = hashlib.sha256(options.encode())
    folders: dict[Path, Path] = {}
    for file in files:
        parent = folders.get(file.parent) or folders.setdefault(file.parent, file.parent.resolve())
        digest.update(f"\0{parent / file.name}\0{state_of(file)}".encode())
    return digest.hexdigest()[:32]


def _memory_map(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _write(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes to a temporary folder and moves the file, so that no reader and no second writer sees an incomplete file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because `os.replace` cannot move a file to another file system.
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix="writing-"))
    try:
        np.save(temporary / path.name, array, allow_pickle=False)
        os.replace(temporary / path.name, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
