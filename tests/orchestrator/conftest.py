"""The command, run in this process as the shell would run it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pruneyard.orchestrator.cli import main


@dataclass(frozen=True)
class Answer:
    """Exit code, stdout and stderr of one call."""

    code: int
    out: str
    err: str


Pruneyard = Callable[..., Answer]


@pytest.fixture
def pruneyard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Pruneyard:
    """Calls `pruneyard` with words, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["pruneyard", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        code = caught.value.code
        return Answer(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call
