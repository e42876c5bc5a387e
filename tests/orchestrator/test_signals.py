"""The effect of signals on a study: a stop on request, also when its terminal is closed, and nothing under nohup."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pruneyard.orchestrator.coordination.stop_request import stop_request


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Checks that signal handlers are the same after a test; hangups are not ignored in it, as they are under nohup."""
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        assert signal.getsignal(number) == handler
        signal.signal(number, handler)
    signal.signal(signal.SIGHUP, hangup)


def test_a_hangup_stops_the_study_and_a_second_one_does_not_interrupt(tmp_path: Path) -> None:
    with stop_request(tmp_path) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested
        assert stop.file.exists()
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal_number == signal.SIGHUP
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_under_nohup_a_hangup_does_nothing(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_request(tmp_path) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


CLOSED_TERMINAL = """
import os, sys, time
from pathlib import Path
from pruneyard.orchestrator.coordination.stop_request import stop_request
with stop_request(Path(sys.argv[1])) as stop:
    print("ready", flush=True)
    # A hangup can come twice, from the terminal and from the test: the block must last until both have come.
    while not (stop.requested and Path(sys.argv[1], "both").exists()):
        time.sleep(0.01)
    print("a line that nobody can read", flush=True)
    print("another one", file=sys.stderr, flush=True)
    Path(sys.argv[1], "ended").touch()
"""


def test_output_after_its_terminal_was_closed_does_not_end_a_study(tmp_path: Path) -> None:
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSED_TERMINAL, str(tmp_path)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    assert os.read(ours, 5) == b"ready"
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    (tmp_path / "both").touch()
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "ended").exists()
