"""Compares the versions that a study was submitted with to those installed where it runs.

Run as `python -m pruneyard.cluster.pins FILE` on a cluster: exits with 2 and says what differs; with `--present` only what is
missing counts.
"""

import json
import platform
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

PACKAGE = "pruneyard"
SUBPACKAGES = ("cluster", "orchestrator", "reports", "workloads")
PRESENT = "--present"
DIFFERENT = 2  # exit code: bad usage, as everywhere


def installed() -> dict[str, str]:
    """Returns the installed versions of Python, of the package and of its dependencies."""
    # Requirements of extras are listed too, and need not be installed.
    names = [re.match(r"[\w.-]+", line) for line in requires(PACKAGE) or () if "extra ==" not in line]
    found = {"python": platform.python_version(), PACKAGE: version(PACKAGE)}
    return found | {match[0]: version(match[0]) for match in names if match is not None}


def extras() -> dict[str, str]:
    """Returns the versions of the optional dependencies installed here, since a study may need them."""
    found = {}
    for line in requires(PACKAGE) or ():
        name, extra = re.match(r"[\w.-]+", line), re.search(r'extra == "(\w+)"', line)
        if name is None or extra is None or extra[1] == "test":
            continue
        with suppress(PackageNotFoundError):
            found[name[0]] = version(name[0])
    return found


def requirements(pins: Mapping[str, str]) -> list[str]:
    """Returns requirements for pip; Python, Ray and the device build of torch are those of the cluster."""
    ours = {name: pin for name, pin in pins.items() if name not in ("python", "ray", PACKAGE)}
    return [f"{name}=={_public(pin)}" for name, pin in ours.items()]


def differences(pins: Mapping[str, str], *, versions: bool = True) -> list[str]:
    """Returns one line for each version that differs here, and one for all packages that are missing.

    Device builds of one version count as equal, and so do patch versions of Python, which differ between images.

    versions: whether other versions count; otherwise only missing packages do.
    """
    lines, missing = [], []
    for name, pin in pins.items():
        try:
            here = platform.python_version() if name == "python" else version(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        if versions and _compared(name, here) != _compared(name, pin):
            lines.append(f"{name} is {here} here; the study was submitted with {pin}")
    return [*lines, *([f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing here"] if missing else [])]


def _compared(name: str, pin: str) -> str:
    return ".".join(pin.split(".")[:2]) if name == "python" else _public(pin)


def _public(pin: str) -> str:
    """Returns the version without its build: `2.9.1+cu128` and `2.9.1+cpu` are builds of one version."""
    return pin.partition("+")[0]


def main(path: str, *, versions: bool) -> int:
    """Prints all differences; returns the exit code, 0 if there are none."""
    lines = differences(json.loads(Path(path).read_text(encoding="utf-8")), versions=versions)
    for line in lines:
        print(f"pruneyard: {line}", file=sys.stderr)
    if lines:
        way = "install the same versions on the cluster, or submit with --pin none" if versions else "install them on the cluster"
        print(f"pruneyard: {sys.executable}: {way}", file=sys.stderr)
    return DIFFERENT if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], versions=PRESENT not in sys.argv[2:]))
