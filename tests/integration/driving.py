"""Starts `pruneyard` as a user does, waits for a point in its work, and ends all of its processes.

Only processes that were seen below the driver are ended; names alone never select one.
"""

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import psutil
from fork_server import ForkedDriver, ForkServer

POLL_EVERY_S = 0.05
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Without a driver, these two processes try for a minute to reach the control service before they end."""


class StepDelay:
    """Sets how long the trainings of a test wait at each step, also while they run."""

    def __init__(self, folder: Path, step_s: float) -> None:
        self._file = folder / "step-delay"
        self.env = {"STEP_DELAY_FILE": str(self._file)}
        self.set(step_s)

    def set(self, step_s: float) -> None:
        """Sets the seconds that trainings wait at a step, from the next step on."""
        new_file = self._file.with_suffix(".new")
        new_file.write_text(str(step_s))
        new_file.replace(self._file)


class Driver:
    """One `pruneyard` command in a session and process group of its own, with its output in files."""

    fork_server: ClassVar[ForkServer | None] = None  # starts what needs neither a terminal nor another interpreter

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str],
        terminal: bool = False,
        fresh: bool = False,
    ) -> None:
        server = None if fresh else self.fork_server
        self._popen: subprocess.Popen[bytes] | ForkedDriver
        self.started = time.monotonic()
        self._stdout, self._stderr = folder / f"{time.time_ns()}.out", folder / f"{time.time_ns()}.err"
        command = [sys.executable, "-c", "from pruneyard.orchestrator.cli import main; main()", *arguments]
        self._typed = -1
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            if terminal:
                self._typed, screen = pty.openpty()
                self._popen = subprocess.Popen(
                    command,
                    cwd=folder,
                    env={**env, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
                    stdin=screen,
                    stdout=screen,
                    stderr=screen,
                    start_new_session=True,
                    preexec_fn=_take_terminal,
                )
                os.close(screen)
                threading.Thread(target=self._read_screen, daemon=True).start()
            elif server is not None and server.can_start(env):
                self._popen = server.start(
                    arguments, folder=folder, env=env, stdout=self._stdout, stderr=self._stderr
                )
            else:
                self._popen = subprocess.Popen(
                    command, cwd=folder, env=dict(env), stdout=stdout, stderr=stderr, start_new_session=True
                )
        self.process = psutil.Process(self._popen.pid)
        self.seen_processes: set[psutil.Process] = set()  # every process below the driver, alive or not
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.record_processes()
            time.sleep(4 * POLL_EVERY_S)  # each poll takes 5 ms

    def record_processes(self) -> None:
        """Records the processes that the driver has at this moment."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.seen_processes |= set(self.process.children(recursive=True))

    def _read_screen(self) -> None:
        with self._stdout.open("wb") as file, contextlib.suppress(OSError):
            while content := os.read(self._typed, 65536):
                file.write(content)
                file.flush()

    @property
    def stdout(self) -> str:
        """Output so far; with a terminal, everything that was written to it."""
        return self._stdout.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def type_keys(self, keys: bytes) -> None:
        """Types keys on the keyboard of its terminal."""
        os.write(self._typed, keys)

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the driver alone."""
        self._popen.send_signal(number)

    def send_signal_to_group(self, number: signal.Signals) -> None:
        """Sends a signal to the driver's process group, as a terminal does; the group was created for the driver."""
        os.killpg(self._popen.pid, number)

    def live_processes(self) -> list[psutil.Process]:
        """Returns the processes that were ever seen below the driver and are alive."""
        self.record_processes()
        return [process for process in self.seen_processes if alive(process)]

    def actors(self) -> list[psutil.Process]:
        """Returns the processes in which trials run."""
        return [process for process in self.live_processes() if is_actor(process)]

    def wait_until(self, condition: Callable[[], bool], *, within_s: float) -> None:
        """Waits until `condition()` holds; fails when the driver ends before, or after `within_s`."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert self._popen.poll() is None, f"ended early with {self._popen.returncode}:\n{self.output()}"
            assert time.monotonic() < deadline, f"not within {within_s} s:\n{self.output()}"
            time.sleep(POLL_EVERY_S)

    def is_running(self) -> bool:
        """Returns whether the driver itself has not ended."""
        return self._popen.poll() is None

    def wait(self, *, within_s: float) -> int:
        """Waits for the end of the driver; returns its exit code."""
        try:
            return self._popen.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s} s:\n{self.output()}") from None

    def output(self) -> str:
        """Returns stdout and stderr so far, for assertion messages."""
        return f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def seconds_until_gone(self, *, within_s: float = 30.0, exclude: Collection[str] = ()) -> float:
        """Waits until no process of the driver is left; returns how long that took, and fails after `within_s`."""
        started = time.monotonic()
        while left := [process for process in self.live_processes() if _command_line(process) not in exclude]:
            assert time.monotonic() - started < within_s, f"left behind: {[_command_line(p)[:80] for p in left]}"
            time.sleep(POLL_EVERY_S)
        return time.monotonic() - started

    def end(self) -> None:
        """Kills its processes that are still alive, by the process ids that were seen."""
        self.record_processes()
        self._ended.set()
        self._watcher.join()
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        for process in self.live_processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.seconds_until_gone()
        if self._typed >= 0:
            os.close(self._typed)


def _take_terminal() -> None:
    """Makes stdin the controlling terminal of the new session, so that keys become signals."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def alive(process: psutil.Process) -> bool:
    """Returns whether the process is alive; a zombie is not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def listening_addresses(process: psutil.Process) -> list[str]:
    """Returns the addresses at which a process accepts connections; none for one that has ended."""
    try:
        sockets = process.net_connections("inet")
    except psutil.Error:
        return []
    return [f"{socket.laddr.ip}:{socket.laddr.port}" for socket in sockets if socket.status == psutil.CONN_LISTEN]


def reachable_from_outside(addresses: Iterable[str]) -> list[str]:
    """Returns the addresses that other machines can reach."""
    return [address for address in addresses if not address.rpartition(":")[0].endswith("127.0.0.1")]


def _command_line(process: psutil.Process) -> str:
    """Returns the command line of a process; empty when it has ended."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def is_rank(process: psutil.Process) -> bool:
    """Returns whether the process is one of several that train one network."""
    title = _command_line(process)
    return title.startswith("ray::") and "TrainWorker" in title


def is_actor(process: psutil.Process) -> bool:
    """Returns whether trials run in the process."""
    title = _command_line(process)
    return title.startswith("ray::TrialActor")


@contextlib.contextmanager
def driving(
    *arguments: str | Path,
    folder: Path,
    env: Mapping[str, str],
    terminal: bool = False,
    fresh: bool = False,
    report: bool = False,
) -> Iterator[Driver]:
    """Yields a running driver; after the block none of its processes is left.

    terminal: on a terminal of its own; fresh: in a new interpreter, which a terminal implies, instead of a fork of one.
    report: whether studies write the page, which takes seconds.
    """
    words = [str(argument) for argument in arguments]
    if words[0] in ("run", "resume", "retry") and not report:
        words.append("--no-report")
    driver = Driver(words, folder=folder, env=env, terminal=terminal, fresh=fresh)
    try:
        yield driver
    finally:
        driver.end()
