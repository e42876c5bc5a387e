"""A separate wall clock for the processes of a test, which can be set while they run."""

import os
from collections.abc import Mapping
from pathlib import Path

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))

SLEEP = """# Under libfaketime 0.9.10 time.sleep of Python 3.11 raises EINVAL.
import select
import time


def sleep(seconds):
    select.select([], [], [], seconds)


time.sleep = sleep
"""


class Clock:
    """A clock at a settable offset from the machine's, for processes that use it; durations stay right."""

    def __init__(self, folder: Path) -> None:
        self._file, self._site = folder / "clock", folder / "clock-site"
        self._site.mkdir(parents=True)
        self._site.joinpath("sitecustomize.py").write_text(SLEEP)
        self.set(0)

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """Returns the environment of a process that uses this clock and has `env` otherwise."""
        path = os.pathsep.join([str(self._site), *filter(None, [env.get("PYTHONPATH")])])
        return {
            **env,
            "PYTHONPATH": path,
            "LD_PRELOAD": str(FAKETIME[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, days: int) -> None:
        """Sets the clock so many days ahead of the machine's, or behind it, for running processes too."""
        new_file = self._file.with_suffix(".new")
        new_file.write_text(f"{days:+d}d")
        new_file.replace(self._file)
