"""Checkpoints of one job: a folder per step, whole or absent, verified before it is trusted.

A checkpoint holds `model.safetensors` (weights, buffers, masks), `state.pt` (optimizer, rules, random state; read with
`weights_only=True`) and `meta.json` (plain numbers, and the digests of the other two). Nothing in it is executed.
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


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the folder and what is wrong with it."""


class CheckpointWriteError(OSError):
    """A checkpoint, `filename`, that cannot be written: the storage is at fault and not the job."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that is needed to go on bit-equal."""

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    meta: Mapping[str, Any]


class Checkpoints(Protocol):
    """The checkpoints of one run key, wherever they are kept."""

    @property
    def path(self) -> object:
        """Where that is, for messages."""
        ...

    def save(self, checkpoint: Checkpoint) -> None:
        """Readers see all of it or nothing. Raises `CheckpointWriteError`, with the earlier ones left as they were."""
        ...

    def load(self, device: torch.device) -> Checkpoint | None:
        """The newest one that is whole, or None. Damaged ones are reported and passed over."""
        ...


@dataclass(frozen=True)
class CheckpointFolder:
    """Those in a folder. The newest `keep` are kept, so that a damaged one has a predecessor."""

    path: Path
    keep: int = 2

    def save(self, checkpoint: Checkpoint) -> None:
        """Written aside, then renamed."""
        final = self.path / f"{PREFIX}{checkpoint.step:09d}"
        aside = self.path / f".{final.name}-{os.getpid()}"
        try:
            self._clear()
            aside.mkdir(parents=True)
            write_checkpoint(aside, checkpoint)
            if final.exists():
                final.rename(self.path / f".{final.name}-replaced")
            aside.rename(final)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointWriteError(error.errno, error.strerror or str(error), str(final)) from error
        self._clear()

    def load(self, device: torch.device) -> Checkpoint | None:
        """The newest one that is whole, or None. Damaged ones are reported and passed over."""
        newest_first = reversed(self._folders())
        return first_whole([partial(read_checkpoint, path, device, called=str(path)) for path in newest_first])

    def _folders(self) -> list[Path]:
        return sorted(self.path.glob(f"{PREFIX}*"))

    def _clear(self) -> None:
        """What is older, what was replaced and what a kill left; a run key has one writer."""
        for path in [*self._folders()[: -self.keep], *self.path.glob(f".{PREFIX}*")]:
            shutil.rmtree(path, ignore_errors=True)


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """The three files, `meta.json` last, into an empty folder."""
    state = io.BytesIO()  # torch says nothing of a disk that is full
    torch.save(dict(checkpoint.state), state)
    try:
        save_file({k: t.contiguous() for k, t in checkpoint.tensors.items()}, folder / "model.safetensors")
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
    (folder / "state.pt").write_bytes(state.getbuffer())
    meta = {
        "format": FORMAT_VERSION,
        "step": checkpoint.step,
        "sha256": {name: _digest(folder / name) for name in FILES},
        **checkpoint.meta,
    }
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")


def read_checkpoint(folder: Path, device: torch.device, *, called: str) -> Checkpoint:
    """What `write_checkpoint` wrote; `called` names it in errors. Raises `CheckpointError`."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        if meta["format"] != FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint {called} has format {meta['format']}, this version reads {FORMAT_VERSION}"
            )
        for name in FILES:
            if _digest(folder / name) != meta["sha256"][name]:
                raise CheckpointError(
                    f"checkpoint {called} is damaged: {name} does not have the digest it was written with"
                )
        tensors = load_file(folder / "model.safetensors", device=str(device))
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever the readers of three formats raise on a damaged file
        raise CheckpointError(f"checkpoint {called} cannot be read: {error!r}") from error
    return Checkpoint(step=meta["step"], tensors=tensors, state=state, meta=meta)


def first_whole(newest_first: Sequence[Callable[[], Checkpoint]]) -> Checkpoint | None:
    """The first one that can be read, or None. Says what is passed over, and what comes instead."""
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
