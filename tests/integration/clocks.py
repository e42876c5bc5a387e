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
    """A clock at the last set offset from that of the machine, for processes that use it; durations stay right."""

    def __init__(self, folder: Path) -> None:
        self._file, self._site = folder / "clock", folder / "clock-site"
        self._site.mkdir()
        self._site.joinpath("sitecustomize.py").write_text(SLEEP)
        self.set(0)

    def told(self, env: Mapping[str, str]) -> dict[str, str]:
        """The environment of such a process, which would have this one otherwise."""
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
        """Forth or back, at once."""
        aside = self._file.with_suffix(".new")
        aside.write_text(f"{days:+d}d")
        aside.replace(self._file)
