"""The example scripts in this folder run as they are, each in an empty folder, and print what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

SAID = {
    "own_function.py": "learning rate of the best run: 0.",
    "chain.py": "generation",
    "own_logits.py": "page: own_logits.html",
    "own_vit.py": "logits of the best network: (3, 10)",
}


def test_every_example_is_run() -> None:
    scripts = {path.name for path in Path(__file__).parent.glob("*.py")}
    assert scripts - {Path(__file__).name} == set(SAID)


@pytest.mark.slow
@pytest.mark.parametrize("script", SAID)
def test_an_example_runs_in_an_empty_folder(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).parent / script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SAID[script] in done.stdout
