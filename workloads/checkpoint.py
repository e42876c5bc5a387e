"""Checkpoints of one job: one folder per step, written atomically and verified before it is read.

A checkpoint holds `model.safetensors` (weights, buffers, masks), `state.pt` (optimizer, rules, random state; read with
`weights_only=True`) and `meta.json` (plain numbers, and the digests of the other two). Reading it executes no code.
"""

import hashlib
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

logger = logging.getLogger(__name__)

FORMAT_VERSION = 3
PREFIX = "step-"
FILES = ("model.safetensors", "state.pt")
META = "meta.json"
_SHARED = "shared"  # the first name of each tensor that is the same memory, by its later names; it is stored once


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the folder and the problem."""


class CheckpointWriteError(OSError):
    """A checkpoint, `filename`, cannot be written; the cause is the storage, not the job."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state from which a job resumes with bit-equal results."""

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    meta: Mapping[str, Any]


class Checkpoints(Protocol):
    """The checkpoints of one run key, in any storage."""

    @property
    def path(self) -> object:
        """Location of the checkpoints, for messages."""
        ...

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint atomically. Raises `CheckpointWriteError`, after which earlier checkpoints are unchanged."""
        ...

    def load(self, device: torch.device) -> Checkpoint | None:
        """Returns the newest intact checkpoint, or None; logs a warning for each damaged one."""
        ...

    def damaged(self, device: torch.device) -> list[CheckpointError]:
        """Returns the problems of the damaged checkpoints, or of those of another version."""
        ...


@dataclass(frozen=True)
class CheckpointFolder:
    """Checkpoints in a local folder. The newest `keep` stay, so that a damaged one has a predecessor."""

    path: Path
    keep: int = 2

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes into a temporary folder, then renames it."""
        final = self.path / f"{PREFIX}{checkpoint.step:09d}"
        temporary = self.path / f".{final.name}-{os.getpid()}"
        try:
            self._clear(final)
            temporary.mkdir(parents=True)
            write_checkpoint(temporary, checkpoint)
            if final.exists():
                final.rename(self.path / f".{final.name}-replaced")
            temporary.rename(final)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointWriteError(error.errno, error.strerror or str(error), str(final)) from error
        self._clear(final)

    def load(self, device: torch.device) -> Checkpoint | None:
        """Returns the newest intact checkpoint, or None; logs a warning for each damaged one."""
        newest_first = reversed(self._folders())
        return first_intact([partial(read_checkpoint, path, device, name=str(path)) for path in newest_first])

    def damaged(self, device: torch.device) -> list[CheckpointError]:
        """Returns the problems of the damaged checkpoints, or of those of another version."""
        return damaged([partial(read_checkpoint, path, device, name=str(path)) for path in self._folders()])

    def _folders(self) -> list[Path]:
        return sorted(self.path.glob(f"{PREFIX}*"))

    def _clear(self, newest: Path) -> None:
        """Deletes older and replaced checkpoints and remains of killed writers; a run key has only one writer at a time.

        Those of later steps stay, and do not count: they could not be read, but that may have been the fault of the reader.
        """
        until = [path for path in self._folders() if path.name <= newest.name]
        for path in [*until[: -self.keep], *self.path.glob(f".{PREFIX}*")]:
            shutil.rmtree(path, ignore_errors=True)


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes the three files into an empty folder, `meta.json` last. Raises `OSError`."""
    # torch.save does not report a full disk as an OSError, so it writes into memory first
    state = io.BytesIO()
    torch.save(dict(checkpoint.state), state)
    shared = _shared(checkpoint.tensors)
    try:
        save_file({k: t.contiguous() for k, t in checkpoint.tensors.items() if k not in shared}, folder / "model.safetensors")
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
    content = state.getbuffer()
    (folder / "state.pt").write_bytes(content)
    digests = {"model.safetensors": _digest(folder / "model.safetensors"), "state.pt": hashlib.sha256(content).hexdigest()}
    meta = {"format": FORMAT_VERSION, "step": checkpoint.step, "sha256": digests, **checkpoint.meta}
    if shared:
        meta[_SHARED] = shared
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")


def read_checkpoint(folder: Path, device: torch.device, *, name: str) -> Checkpoint:
    """Reads and verifies a checkpoint; `name` is used in messages. Raises `CheckpointError`."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint {name} has format {meta['format']}, this version reads {FORMAT_VERSION}"
            )
        for file in FILES:
            if _digest(folder / file) != meta["sha256"][file]:
                raise CheckpointError(
                    f"checkpoint {name} is damaged: {file} does not have the digest it was written with"
                )
        tensors = load_file(folder / "model.safetensors", device=str(device))
        tensors |= {name: tensors[first].clone() for name, first in meta.get(_SHARED, {}).items()}
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # the readers of the three formats raise many types on a damaged file
        raise CheckpointError(f"checkpoint {name} cannot be read: {error!r}") from error
    return Checkpoint(step=meta["step"], tensors=tensors, state=state, meta=meta)


def _shared(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns the first name of each tensor that is the same memory as an earlier one, as tied weights are, by its own name."""
    firsts: dict[tuple[Any, ...], str] = {}
    names = {n: (t.device, t.data_ptr(), t.dtype, t.shape, t.stride()) for n, t in tensors.items() if t.numel()}
    found = {name: firsts.setdefault(key, name) for name, key in names.items()}
    return {name: first for name, first in found.items() if name != first}


def damaged(readers: Sequence[Callable[[], Checkpoint]]) -> list[CheckpointError]:
    """Returns the errors of the checkpoints that cannot be read."""
    errors = []
    for read in readers:
        try:
            read()
        except CheckpointError as error:
            errors.append(error)
    return errors


def first_intact(newest_first: Sequence[Callable[[], Checkpoint]]) -> Checkpoint | None:
    """Returns the first checkpoint that can be read, or None; logs a warning for each that cannot, and what is used instead."""
    for place, read in enumerate(newest_first, start=1):
        try:
            return read()
        except CheckpointError as error:
            instead = "trying the one before it" if place < len(newest_first) else "the job starts from its beginning"
            logger.warning("%s; %s", error, instead)
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
