"""CPU seconds of commands that answer at once: the least of three calls each, children included.

The last one is a finished `quickstart`, which is run first.
"""

import os
import resource
import subprocess
import sys
import tempfile

COMMANDS = [
    ("--help",),
    ("run", "--help"),
    ("list",),
    ("plan", "quickstart"),
    ("run", "quickstart", "--local"),
]
REPEATS = 3


def cpu_seconds(words: tuple[str, ...], folder: str) -> float:
    """Returns user and system seconds of one call."""
    command = [sys.executable, "-c", "from pruneyard.orchestrator.cli import main; main()", *words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for words in COMMANDS:
            if words == COMMANDS[-1]:
                cpu_seconds(words, folder)
            least = min(cpu_seconds(words, folder) for _ in range(REPEATS))
            print(f"pruneyard {' '.join(words)}: {least:.2f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
