"""A disk cache of results along a path of networks that do not depend on synthetic images; jobs on this machine share it.

Each step stores the gradients on real images, and the network after the training that follows. Jobs that differ in images per
class, in the factor of stored images, in the distance or in the initial images have the same path if data, model, path seed and
settings agree. Cached results are bit-equal to computed ones.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruneyard.workloads.data.folders import cache_folder

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
WRITING = "writing-"  # prefix of the folder in which a file is written
ABANDONED_AFTER_S = 3600.0  # a file that was last written to so long ago has no writer any more


@dataclass(frozen=True, kw_only=True)
class PathCache:
    """A cache with a subfolder of `folder` per path and a file per step. All paths together stay below `limit_bytes`.

    To make room, files of other paths are deleted, the least recently used first. If there are none, new steps are not cached.
    """

    folder: Path
    path: str  # hash of all that the steps depend on, see `path_key`
    limit_bytes: int

    @classmethod
    def for_path(cls, *, description: str, device: torch.device, limit_bytes: int) -> "PathCache":
        """Creates the cache of a path in this user's cache folder."""
        key = path_key(description, device=device)
        return cls(folder=cache_folder() / "distill-paths", path=key, limit_bytes=limit_bytes)

    def get(self, step: int, device: torch.device) -> dict[str, Tensor] | None:
        """Returns the tensors of a step; None if they are not cached or cannot be read."""
        file = self._file(step)
        try:
            tensors = load_file(file, device=str(device))
            # Marks the file as used, for `_make_room` of any job.
            os.utime(file)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            logger.warning("The cached file %s cannot be read and is computed again: %s", file, error)
            return None
        return tensors

    def put(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Stores the tensors of a step, if there is room. A cache that cannot be written is logged as a warning.

        The file is written to a temporary folder and moved, so that no reader and no second writer sees an incomplete file.
        """
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        try:
            if not self._make_room(needed):
                return
            file = self._file(step)
            file.parent.mkdir(parents=True, exist_ok=True)
            # Inside the cache, since a move is atomic within one file system only.
            temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=WRITING))
            try:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / file.name)
                os.replace(temporary / file.name, file)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            logger.warning("The cache %s cannot be written, so results are not cached: %s", self.folder, error)

    def _file(self, step: int) -> Path:
        return self.folder / self.path / f"{step:09d}.safetensors"

    def _make_room(self, needed: int) -> bool:
        """Deletes files of other paths as needed; returns whether `needed` bytes now fit.

        A file that another job is writing counts, but is not deleted unless its writer was killed long ago.
        """
        files = {file: status for folder in _listed(self.folder) for file, status in _sized(folder).items()}
        oldest = time.time() - ABANDONED_AFTER_S
        room = self.limit_bytes - needed - sum(status.st_size for status in files.values())
        others = [
            file
            for file, status in files.items()
            if file.parent.name != self.path and (status.st_mtime < oldest or not file.parent.name.startswith(WRITING))
        ]
        for file in sorted(others, key=lambda other: files[other].st_mtime):
            if room >= 0:
                break
            # Another job may have deleted it in the meantime.
            file.unlink(missing_ok=True)
            room += files[file].st_size
        return room >= 0


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    # Nothing is cached yet, another job has deleted its temporary folder, or it is a file of somebody else.
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sized(folder: Path) -> dict[Path, os.stat_result]:
    """Returns the status of each cached file in a folder, as far as no other job moves or deletes file or folder meanwhile."""
    found = {}
    for file in _listed(folder):
        with suppress(FileNotFoundError):
            if file.suffix == ".safetensors":
                found[file] = file.stat()
    return found


def path_key(description: str, *, device: torch.device) -> str:
    """Returns a hash of the description (data, model, seed and settings) and of all else that affects the last bit of results."""
    hardware = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    # The number of threads, too, changes the order of sums and so the last bit.
    machine = f"{FORMAT_VERSION}/{torch.__version__}/{device.type}/{hardware}/{torch.get_num_threads()}"
    return hashlib.sha256(f"{machine}/{description}".encode()).hexdigest()[:32]
