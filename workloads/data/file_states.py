"""The states of files: size, times and inode. They stand for the content, which would have to be read in full.

This module imports nothing that is slow to load.
"""

import os
from pathlib import Path


def state_of(file: Path) -> tuple[int, ...] | None:
    """Returns size, modification time, change time and inode of a file; None for one that is missing or cannot be reached.

    Size and modification time alone do not tell two files that were unpacked from one archive and have then changed places.
    """
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def files_below(path: Path) -> list[Path]:
    """Returns the path itself if it is a file, else all files in this folder and in those that links in it lead to, sorted."""
    if path.is_file():
        return [path]
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for folder, inner, names in os.walk(path, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above it
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        found += [file for name in names if (file := Path(folder, name)).is_file()]
    return sorted(found)
