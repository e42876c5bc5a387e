"""The end of a stopped study, in Python and for the command: saved, PARTIAL, and resumable."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruneyard.orchestrator.coordination.stop_request import stop_request
from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.results import GracefulInterrupt, Results

Pruneyard = Callable[..., Any]

SPEC: dict[str, Any] = {
    "name": "stopped",
    "kind": "sparse",
    "data": {"name": "digits", "max_train": 100, "max_test": 50},
    "model": {"name": "mlp", "width": 8, "depth": 1},
    "method": {"name": "set", "density": 0.5},
    "budget": {"steps": 6, "batch_size": 16},
    "seeds": 3,
}


class SendsSignal:
    """A display that sends its process a signal as soon as a job has finished."""

    def __init__(self, number: signal.Signals) -> None:
        self._number, self._done = number, False

    def show(self, monitor: Monitor) -> None:
        """Sends the signal once."""
        if monitor.done and not self._done:
            self._done = True
            os.kill(os.getpid(), self._number)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder in which one of three jobs is finished and two never started."""
    folder = tmp_path_factory.mktemp("stopped") / "out"
    run(SPEC, folder, local=True, display=SendsSignal(signal.SIGTERM))
    return folder


def test_ctrl_c_in_python_raises_when_everything_is_saved(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"finished work and checkpoints are kept in .*out") as caught:
        run(SPEC, tmp_path / "out", local=True, display=SendsSignal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before
    assert isinstance(caught.value, GracefulInterrupt)
    assert list(caught.value.results.runs()["status"]) == ["COMPLETED"]
    assert caught.value.results.exit_code == 3
    assert run(SPEC, tmp_path / "out", local=True).exit_code == 0
    assert list(Results(tmp_path / "out").runs()["attempt"]) == [1, 1, 1]


def test_jobs_that_never_started_make_a_folder_partial(stopped: Path) -> None:
    assert list(Results(stopped).runs()["status"]) == ["COMPLETED"]
    assert Results(stopped).exit_code == 3


def test_the_exit_code_is_about_the_jobs_of_the_spec(stopped: Path) -> None:
    assert run({**SPEC, "seeds": 1}, stopped, local=True).exit_code == 0
    assert run({**SPEC, "seeds": 2}, stopped, local=True, only=frozenset()).exit_code == 3


def test_a_folder_without_its_spec_is_judged_by_its_runs(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "results", tmp_path / "copy" / "results")
    assert Results(tmp_path / "copy").exit_code == 0


def test_a_driver_that_lost_the_folder_stops_its_own_trials_alone(tmp_path: Path) -> None:
    (tmp_path / ".stop-0123abcd").touch()  # of one that was killed
    with stop_request(tmp_path) as first, stop_request(tmp_path) as second:
        assert not list(tmp_path.iterdir())
        first.hand_over("another has it")
        assert first.file.exists()
        assert (first.handed_over, second.handed_over, second.requested) == (True, False, False)
        assert not second.file.exists()
    assert not list(tmp_path.iterdir())


def test_the_command_exits_as_the_folder_says(pruneyard: Pruneyard, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "copy")
    result = pruneyard("retry", "copy", "--local", "--json")  # nothing failed, so nothing runs
    assert result.code == json.loads(result.out)["exit_code"] == Results("copy").exit_code == 3
    advice = f"0 interrupted, 2 not started; resume with: pruneyard resume {tmp_path}/copy"
    assert advice in pruneyard("retry", "copy", "--local").out
    assert pruneyard("resume", "copy", "--local").code == Results("copy").exit_code == 0
