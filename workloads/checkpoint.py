"""Checkpoints of one job: a folder per step, whole or absent, verified before it is trusted.

A checkpoint holds `model.safetensors` (weights, buffers, masks), `state.pt` (optimizer, rules, random state; read with
`weights_only=True`) and `meta.json` (plain numbers, and the digests of the other two). Nothing in it is executed.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

logger = logging.getLogger(__name__)

FORMAT_VERSION = 3
_PREFIX = "step-"
_FILES = ("model.safetensors", "state.pt")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the folder and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that is needed to go on bit-equal."""

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run key. The newest `keep` are kept, so that a damaged one has a predecessor."""

    path: Path
    keep: int = 2

    def save(self, checkpoint: Checkpoint) -> None:
        """Written aside, then renamed: readers see all of it or nothing."""
        final = self.path / f"{_PREFIX}{checkpoint.step:09d}"
        aside = self.path / f".{final.name}-{os.getpid()}"
        for left_by_a_kill in self.path.glob(f".{_PREFIX}*"):  # a run key has one writer
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file({k: t.contiguous() for k, t in checkpoint.tensors.items()}, aside / "model.safetensors")
        torch.save(dict(checkpoint.state), aside / "state.pt")
        meta = {
            "format": FORMAT_VERSION,
            "step": checkpoint.step,
            "sha256": {name: _digest(aside / name) for name in _FILES},
            **checkpoint.meta,
        }
        (aside / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
        self._drop_old()

    def load(self, device: torch.device) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None. Damaged ones are reported and passed over."""
        for path in reversed(self._folders()):
            try:
                return _read(path, device)
            except CheckpointError as error:
                logger.warning("%s; trying the one before it", error)
        return None

    def _folders(self) -> list[Path]:
        return sorted(self.path.glob(f"{_PREFIX}*"))

    def _drop_old(self) -> None:
        for path in self._folders()[: -self.keep]:
            shutil.rmtree(path, ignore_errors=True)


def _read(path: Path, device: torch.device) -> Checkpoint:
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint {path} has format {meta['format']}, this version reads {FORMAT_VERSION}"
            )
        for name in _FILES:
            if _digest(path / name) != meta["sha256"][name]:
                raise CheckpointError(
                    f"checkpoint {path} is damaged: {name} does not have the digest it was written with"
                )
        tensors = load_file(path / "model.safetensors", device=str(device))
        state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever the readers of three formats raise on a damaged file
        raise CheckpointError(f"checkpoint {path} cannot be read: {error!r}") from error
    return Checkpoint(step=meta["step"], tensors=tensors, state=state, meta=meta)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
