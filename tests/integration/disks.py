"""File systems that tests mount, where this user is allowed to."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def mount_or_skip(*arguments: str | Path) -> None:
    """Calls `mount`; skips the test where this user may not."""
    completed = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if completed.returncode:
        pytest.skip(f"mounts are not allowed here: {completed.stderr.strip()}")


def make_read_only(folder: Path) -> None:
    """Makes the folder and everything in it read-only for all processes, until it is unmounted."""
    mount_or_skip("--bind", folder, folder)
    mount_or_skip("-o", "remount,ro,bind", folder)


@contextlib.contextmanager
def unmounted_after(folder: Path) -> Iterator[None]:
    """Unmounts the folder after the block, also when the block raises."""
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
