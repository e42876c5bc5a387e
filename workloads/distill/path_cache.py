"""What a path of networks gives that no synthetic image has a part in, kept on disk and shared by all jobs that need it.

That is, for every step: the gradients on real images, and the network after the training that follows. Jobs that differ in
their images per class, in how each is stored, in their distance or in their start draw the same path, if data, model, seed of
the path and settings agree. What is read back is bit for bit what would have been computed.
"""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruneyard.workloads.data.folders import cache_folder

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class PathCache:
    """A folder per path in `folder`, a file per step. All paths together stay below `limit_bytes`.

    To make room, files of other paths go, the one that was used longest ago first; when there are none, no more is kept.
    """

    folder: Path
    path: str  # names all that the steps depend on, see `path_key`
    limit_bytes: int

    @classmethod
    def of(cls, *, about: str, device: torch.device, limit_bytes: int) -> "PathCache":
        """In the cache folder of this user."""
        key = path_key(about, device=device)
        return cls(folder=cache_folder() / "distill-paths", path=key, limit_bytes=limit_bytes)

    def get(self, step: int, device: torch.device) -> dict[str, Tensor] | None:
        """The tensors of a step; None where they are not kept or cannot be read."""
        file = self._file(step)
        try:
            found = load_file(file, device=str(device))
            os.utime(file)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            logger.warning("computed again, because the cached %s cannot be read: %s", file, error)
            return None
        return found

    def put(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Written aside and moved, so that no reader and no second writer meets half a file. No space is no error."""
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        try:
            if not self._make_room(needed):
                return
            file = self._file(step)
            file.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(dir=self.folder, prefix="writing-"))
            try:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside / file.name)
                os.replace(aside / file.name, file)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        except OSError as error:
            logger.warning("not kept, because the cache %s cannot be written: %s", self.folder, error)

    def _file(self, step: int) -> Path:
        return self.folder / self.path / f"{step:09d}.safetensors"

    def _make_room(self, needed: int) -> bool:
        """Whether so many bytes fit, after others have gone."""
        kept = {file: file.stat() for file in self.folder.glob("*/*.safetensors")}
        room = self.limit_bytes - needed - sum(status.st_size for status in kept.values())
        others = [file for file in kept if file.parent.name != self.path]
        for file in sorted(others, key=lambda other: kept[other].st_mtime):
            if room >= 0:
                break
            file.unlink(missing_ok=True)
            room += kept[file].st_size
        return room >= 0


def path_key(about: str, *, device: torch.device) -> str:
    """Of a description of data, model, seed and settings; and of what else decides the last bit of a number."""
    kind = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability()
    )
    machine = f"{FORMAT_VERSION}/{torch.__version__}/{device.type}/{kind}/{torch.get_num_threads()}"
    return hashlib.sha256(f"{machine}/{about}".encode()).hexdigest()[:32]
