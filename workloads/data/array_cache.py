"""Keeps arrays that are slow to make on disk, under a key of what they were made from."""

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

from pruneyard.workloads.data.folders import cache_folder

logger = logging.getLogger(__name__)


T = TypeVar("T", bound=np.generic)


def cached_array(
    make: Callable[[], npt.NDArray[np.uint8]], *, files: Iterable[Path], options: str
) -> npt.NDArray[np.uint8]:
    """What `make` makes of `files` and `options`, as a read-only memory map; made again when a file changes.

    Where the cache cannot be written, the array stays in memory and a warning says so.
    """
    return _cached(make, _key(files, options))


def cached_by_key(make: Callable[[], npt.NDArray[T]], *, key: str) -> npt.NDArray[T]:
    """What `make` makes, where `key`, any text, says all that it is made from; else as `cached_array`."""
    return _cached(make, _key([], key))


def _cached(make: Callable[[], npt.NDArray[T]], name: str) -> npt.NDArray[T]:
    path = cache_folder() / "arrays" / f"{name}.npy"
    if path.exists():
        try:
            return _memory_map(path)
        except (EOFError, OSError, ValueError) as error:
            logger.warning("made again, because the cached %s cannot be read: %s", path, error)
    array = make()
    try:
        _write(path, array)
        return _memory_map(path)
    except OSError as error:
        logger.warning("kept in memory, because the cache %s cannot be written: %s", path.parent, error)
        return array


def _key(files: Iterable[Path], options: str) -> str:
    digest = hashlib.sha256(options.encode())
    for file in files:
        status = file.stat()
        digest.update(f"\0{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _memory_map(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _write(path: Path, array: npt.NDArray[Any]) -> None:
    """Written aside and moved, so that no reader and no second writer meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix="writing-"))
    try:
        np.save(aside / path.name, array, allow_pickle=False)
        os.replace(aside / path.name, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
