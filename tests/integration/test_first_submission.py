"""The first submission to a head as `ray start --head` starts it: no token, and a PATH that does not name our interpreter."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import driving
from ray_head import Head, ray_head

from pruneyard.orchestrator.results import Results

SPEC = """\
name: first
kind: sparse
data: {name: digits, max_train: 100, max_test: 50}
model: {name: mlp, width: 8, depth: 1}
method: {name: set, density: 0.5}
budget: {steps: 6, batch_size: 16}
"""

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def new_user_env(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> dict[str, str]:
    """Returns the environment of a user who has never started Ray: no token, and no interpreter of ours on the path."""
    home = tmp_path_factory.mktemp("home")
    return {**env, "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "PATH": "/usr/bin:/bin"}


@pytest.fixture(scope="module")
def stock_head(new_user_env: dict[str, str]) -> Iterator[Head]:
    with ray_head(new_user_env, with_token=False) as started:
        yield started


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """Returns the path of an interpreter without any package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return tmp_path / "bare" / "bin" / "python"


def run_command(*arguments: str | Path, env: dict[str, str], folder: Path, code: int = 0) -> tuple[str, str]:
    with driving(*arguments, folder=folder, env=env) as driver:
        assert driver.wait(within_s=300.0) == code, driver.output()
        assert "Traceback" not in driver.stderr
        return driver.stdout, driver.stderr


def test_what_would_fail_there_is_not_accepted_and_what_is_accepted_runs(
    stock_head: Head, new_user_env: dict[str, str], bare_python: Path, tmp_path: Path
) -> None:
    (tmp_path / "first.yaml").write_text(SPEC)
    address = ("--address", stock_head.url)
    out = ("--out", str(tmp_path / "out"))

    # An interpreter without packages: one line of what is missing, nothing accepted.
    submit = ("submit", "first.yaml", *address)
    _, output = run_command(*submit, *out, "--python", bare_python, env=new_user_env, folder=tmp_path, code=2)
    assert "so it was not submitted" in output
    assert "give --python PATH" in output
    (missing,) = (line for line in output.splitlines() if "missing here" in line)
    assert {"ray", "torch", "numpy"} <= set(missing.replace(",", "").split())
    # No such interpreter, and no folder of results.
    _, output = run_command(*submit, *out, "--python", "no-such-python", env=new_user_env, folder=tmp_path, code=2)
    assert "no-such-python: is not there" in output
    _, output = run_command(*submit, env=new_user_env, folder=tmp_path, code=2)
    assert "PRUNEYARD_OUT" in output
    assert json.loads(run_command("status", *address, "--json", env=new_user_env, folder=tmp_path)[0]) == []

    # Without a token and without --python; later commands know the address.
    job, output = run_command(*submit, *out, env=new_user_env, folder=tmp_path)
    assert "without a token" in output
    run_command("wait", job.strip(), env=new_user_env, folder=tmp_path)
    assert Results(tmp_path / "out").exit_code == 0
    listed, output = run_command("status", "--json", env=new_user_env, folder=tmp_path)
    assert [view["job"] for view in json.loads(listed)] == [job.strip()]
    assert stock_head.url in output
