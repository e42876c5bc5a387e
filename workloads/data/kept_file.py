"""A file that an earlier job left: named by its path and known by what is in it, or named and known by the run that left it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pruneyard.workloads.data.distant_file import local_file
from pruneyard.workloads.fields import check_runs


def known_digest(*, path: str, digest: str, runs: tuple[str, ...], another: str) -> str:
    """The digest that is part of a table's identity: of the file's content, empty where a run is named.

    `another` says what a file of other content is. Raises `ValueError` where it is one, or cannot be read.
    """
    if runs:
        check_runs(runs, num=1)
        if digest:
            raise ValueError(f"digest is {digest} beside runs; it belongs to a path, so it must be left out")
        return ""
    found = digest_of(path)
    if digest not in ("", found):
        raise ValueError(f"digest is {digest}; {path} has {found}, so it {another}")
    return found


def kept_file(*, path: str, digest: str, runs: tuple[str, ...], artifacts: Sequence[str], name: str) -> Path:
    """Where the file lies; `name` is its own in what a run left. Raises `ValueError` where it is not what it was."""
    if runs:
        if not artifacts:
            raise ValueError(f"runs is {list(runs)}; only a study that holds that run can read what it left")
        path = f"{artifacts[0]}/{name}"
    found = digest_of(path)
    if not runs and found != digest:
        raise ValueError(f"{path} has changed: its digest was {digest} and is {found}")
    return local_file(path)


def digest_of(path: str) -> str:
    """16 hexadecimal digits over a file's content. Raises `ValueError` where there is no file."""
    try:
        return hashlib.sha256(local_file(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise ValueError(f"path is {path!r}, which cannot be read: {error.strerror}") from error
