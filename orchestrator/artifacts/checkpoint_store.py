"""Checkpoints of one run key in an object store: a name of its own for each, its `meta.json` put last and deleted first."""

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
    first_whole,
    read_checkpoint,
    write_checkpoint,
)


def checkpoints_in(place: Location) -> Checkpoints:
    """Those of a run that lie in this folder."""
    return ObjectCheckpoints(place) if isinstance(place, ObjectPath) else CheckpointFolder(place)


@dataclass(frozen=True)
class ObjectCheckpoints:
    """The newest `keep` are kept. They are written to and read from a temporary folder of this machine.

    What has no `meta.json` was not put to its end and counts for nothing. A process that is thought dead and still writes
    cannot mix its files with those of the one in its place: no two checkpoints share a name.
    """

    path: ObjectPath
    keep: int = 2

    def save(self, checkpoint: Checkpoint) -> None:
        """Raises `StorageError`, or `CheckpointWriteError` where there is no room for the temporary files."""
        new = self.path / f"{PREFIX}{checkpoint.step:09d}-{uuid4().hex[:8]}"
        with TemporaryDirectory(prefix="pruneyard-") as scratch:
            try:
                write_checkpoint(Path(scratch), checkpoint)
            except OSError as error:
                raise CheckpointWriteError(error.errno, error.strerror or str(error), scratch) from error
            for name in (*FILES, META):
                (new / name).write_file(Path(scratch) / name)
        self._clear(new)

    def load(self, device: torch.device) -> Checkpoint | None:
        """The newest one that is whole, or None. Damaged ones are reported and passed over."""
        whole = sorted(name for name, files in self._held().items() if META in files)
        return first_whole([partial(_download, self.path / name, device) for name in reversed(whole)])

    def _held(self) -> dict[str, set[str]]:
        """The files of each checkpoint, by their names."""
        held: dict[str, set[str]] = {}
        for file in self.path.files():
            if file.parent.parent == self.path and file.parent.name.startswith(PREFIX):
                held.setdefault(file.parent.name, set()).add(file.name)
        return held

    def _clear(self, new: ObjectPath) -> None:
        """Deletes what is older, what stood at the same step and what was not put to its end; a run key has one writer."""
        held = self._held()
        step_of = {name: name.split("-")[1] for name in held}
        whole = [
            name
            for name, files in held.items()
            if META in files and (name == new.name or step_of[name] != step_of[new.name])
        ]
        kept = sorted(whole, reverse=True)[: self.keep]
        for name in held.keys() - set(kept):
            for file in sorted(held[name], key=lambda file: file != META):
                (self.path / name / file).unlink()


def _download(place: ObjectPath, device: torch.device) -> Checkpoint:
    with TemporaryDirectory(prefix="pruneyard-") as scratch:
        for name in (*FILES, META):
            try:
                content = (place / name).read_bytes()
            except FileNotFoundError as error:
                raise CheckpointError(f"checkpoint {place} lacks {name}") from error
            (Path(scratch) / name).write_bytes(content)
        return read_checkpoint(Path(scratch), device, called=str(place))
