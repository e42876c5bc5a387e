"""Output while a study runs, and where it comes from."""

import sys
from contextlib import redirect_stdout

import pytest

from pruneyard.orchestrator.progress.ray_output import RayOutputFilter


def test_prints_of_trials_are_kept_and_those_of_ray_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    with redirect_stdout(RayOutputFilter()):  # type: ignore[type-var]
        print("of a trial")
        print("\x1b[33m(raylet)\x1b[0m Raylet is terminated.\n    [state-dump] of no use\n")
        print("(raylet, ip=192.0.2.7) A worker died or was killed")
        print()
        print("(a trial's own)", end="", flush=True)
        print("last", file=sys.stdout)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "of a trial\n\n(a trial's own)last\n"
