"""File systems that tests mount, where this user is allowed to."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def mounted(*arguments: str | Path) -> None:
    """Calls `mount`, or skips where this user may not."""
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounts are not allowed here: {done.stderr.strip()}")


def turned_read_only(folder: Path) -> None:
    """From now on, for every process and below it, until it is unmounted."""
    mounted("--bind", folder, folder)
    mounted("-o", "remount,ro,bind", folder)


@contextlib.contextmanager
def unmounted_after(folder: Path) -> Iterator[None]:
    """Whatever happens in the block."""
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
