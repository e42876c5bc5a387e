"""Writes a file so that a reader sees all of it or nothing, also after a power cut."""

import os
from pathlib import Path
from uuid import uuid4


def write_durably(path: Path, content: bytes | memoryview) -> None:
    """Write beside `path` under a hidden name, flush to disk, move into place. Replaces what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{uuid4().hex}"
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself durable: a rename is only in memory until its folder is written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
