"""Stores the checkpoints of a run in an object store, each under a unique name, `meta.json` written last and deleted first."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import torch

from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.workloads.checkpoint import (
    FILES,
    META,
    PREFIX,
    Checkpoint,
    CheckpointError,
    CheckpointFolder,
    Checkpoints,
    CheckpointWriteError,
    damaged,
    first_intact,
    read_checkpoint,
    write_checkpoint,
)


def checkpoints_in(place: Location) -> Checkpoints:
    """Returns the checkpoints in this folder or at this place of an object store."""
    return ObjectCheckpoints(place) if isinstance(place, ObjectPath) else CheckpointFolder(place)


@dataclass(frozen=True)
class ObjectCheckpoints:
    """The checkpoints of a run in an object store; the newest `keep` up to the step saved last are kept.

    They are written and read through a temporary local folder. A checkpoint without `meta.json` is incomplete and ignored. No
    two checkpoints share a name, so a process believed dead that still writes cannot mix its files with those of its successor.
    """

    path: ObjectPath
    keep: int = 2

    def save(self, checkpoint: Checkpoint) -> None:
        """Saves a checkpoint. Raises `StorageError`, or `CheckpointWriteError` if the temporary folder cannot be written."""
        # Zero-padded, so that names sort by step.
        new = self.path / f"{PREFIX}{checkpoint.step:09d}-{uuid4().hex[:8]}"
        with TemporaryDirectory(prefix="pruneyard-") as scratch:
            try:
                write_checkpoint(Path(scratch), checkpoint)
            except OSError as error:
                raise CheckpointWriteError(error.errno, error.strerror or str(error), scratch) from error
            for name in (*FILES, META):
                (new / name).write_file(Path(scratch) / name)
        # Only once the new one is complete: a crash in between leaves one checkpoint too many, never one too few.
        self._clear(new)

    def load(self, device: torch.device) -> Checkpoint | None:
        """Returns the newest complete checkpoint, or None. Damaged ones are logged and skipped."""
        whole = sorted(name for name, files in self._stored_files().items() if META in files)
        return first_intact([partial(_download, self.path / name, device) for name in reversed(whole)])

    def damaged(self, device: torch.device) -> list[CheckpointError]:
        """Returns the problems of the complete checkpoints that cannot be read."""
        whole = sorted(name for name, files in self._stored_files().items() if META in files)
        return damaged([partial(_download, self.path / name, device) for name in whole])

    def _stored_files(self) -> dict[str, set[str]]:
        """Returns the file names of each checkpoint, by the name of the checkpoint."""
        stored: dict[str, set[str]] = {}
        for file in self.path.files():
            if file.parent.parent == self.path and file.parent.name.startswith(PREFIX):
                stored.setdefault(file.parent.name, set()).add(file.name)
        return stored

    def _clear(self, new: ObjectPath) -> None:
        """Deletes older, incomplete and same-step checkpoints; safe because a run key has one writer.

        Those of later steps stay, and do not count: they could not be read, but that may have been the fault of the reader.
        """
        stored = self._stored_files()
        step_of = {name: name.split("-")[1] for name in stored}
        whole = [
            name
            for name, files in stored.items()
            if META in files and (name == new.name or step_of[name] < step_of[new.name])
        ]
        later = {name for name, files in stored.items() if META in files and step_of[name] > step_of[new.name]}
        kept = sorted(whole, reverse=True)[: self.keep]
        for name in stored.keys() - set(kept) - later:
            # `meta.json` first, as False sorts before True: a crash then leaves an incomplete checkpoint, which is ignored.
            for file in sorted(stored[name], key=lambda file: file != META):
                (self.path / name / file).unlink()


def _download(place: ObjectPath, device: torch.device) -> Checkpoint:
    with TemporaryDirectory(prefix="pruneyard-") as scratch:
        for name in (*FILES, META):
            try:
                content = (place / name).read_bytes()
            except FileNotFoundError as error:
                raise CheckpointError(f"checkpoint {place} lacks {name}") from error
            (Path(scratch) / name).write_bytes(content)
        return read_checkpoint(Path(scratch), device, name=str(place))
