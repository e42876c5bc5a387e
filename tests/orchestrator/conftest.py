"""Runs the command in this process as a shell would."""

import sys
from pathlib import Path

import pytest
from in_process_command import CommandResult, Pruneyard

from pruneyard.orchestrator.cli import main


@pytest.fixture
def pruneyard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Pruneyard:
    """Returns a function that calls `pruneyard` with arguments, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["pruneyard", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        code = caught.value.code
        return CommandResult(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call
