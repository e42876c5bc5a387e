"""Starts `pruneyard` as a user does, waits for a point in its work, and ends all of its processes.

Processes are known by what the driver was seen to start, never by their names alone.
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
from preloaded import Forked, ForkServer

LOOK_EVERY_S = 0.05
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Without a driver these two tell a control service that is gone for a minute, and end only then."""


class Patience:
    """How long the trainings of a test wait at each step; may be changed while they run."""

    def __init__(self, folder: Path, step_s: float) -> None:
        self._file = folder / "patience"
        self.env = {"PATIENCE": str(self._file)}
        self.set(step_s)

    def set(self, step_s: float) -> None:
        """From the next step on."""
        aside = self._file.with_suffix(".new")
        aside.write_text(str(step_s))
        aside.replace(self._file)


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
        self._popen: subprocess.Popen[bytes] | Forked
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
        self.seen: set[psutil.Process] = set()  # every process below the driver, alive or not
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.look()
            time.sleep(4 * LOOK_EVERY_S)  # a look takes 5 ms

    def look(self) -> None:
        """Records the processes that the driver has at this moment."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.seen |= set(self.process.children(recursive=True))

    def _read_screen(self) -> None:
        with self._stdout.open("wb") as file, contextlib.suppress(OSError):
            while content := os.read(self._typed, 65536):
                file.write(content)
                file.flush()

    @property
    def stdout(self) -> str:
        """So far; of a terminal, everything it was sent."""
        return self._stdout.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def type(self, keys: bytes) -> None:
        """As if on the keyboard of its terminal."""
        os.write(self._typed, keys)

    def send(self, number: signal.Signals) -> None:
        """To the driver alone."""
        self._popen.send_signal(number)

    def send_to_group(self, number: signal.Signals) -> None:
        """To the driver's process group, as a terminal does; the group is the one we made for it."""
        os.killpg(self._popen.pid, number)

    def offspring(self) -> list[psutil.Process]:
        """Every process that was ever seen below the driver and lives."""
        self.look()
        return [process for process in self.seen if alive(process)]

    def actors(self) -> list[psutil.Process]:
        """The processes in which trials run."""
        return [process for process in self.offspring() if is_actor(process)]

    def wait_until(self, fact: Callable[[], bool], *, within_s: float) -> None:
        """Until `fact()`; fails when the driver ends or the time is up before."""
        deadline = time.monotonic() + within_s
        while not fact():
            assert self._popen.poll() is None, f"ended early with {self._popen.returncode}:\n{self.said()}"
            assert time.monotonic() < deadline, f"not within {within_s} s:\n{self.said()}"
            time.sleep(LOOK_EVERY_S)

    def running(self) -> bool:
        """Whether the driver itself has not ended."""
        return self._popen.poll() is None

    def wait(self, *, within_s: float) -> int:
        """The exit code."""
        try:
            return self._popen.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within_s} s:\n{self.said()}") from None

    def said(self) -> str:
        """Output so far, for messages."""
        return f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"

    def seconds_until_gone(self, *, within_s: float = 30.0, besides: Collection[str] = ()) -> float:
        """How long it takes until no process of the driver is left; fails after `within_s`."""
        started = time.monotonic()
        while left := [process for process in self.offspring() if _title(process) not in besides]:
            assert time.monotonic() - started < within_s, f"left behind: {[_title(p)[:80] for p in left]}"
            time.sleep(LOOK_EVERY_S)
        return time.monotonic() - started

    def end(self) -> None:
        """Kills what still lives of it, by the process ids that were seen."""
        self.look()
        self._ended.set()
        self._watcher.join()
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        for process in self.offspring():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.seconds_until_gone()
        if self._typed >= 0:
            os.close(self._typed)


def _take_terminal() -> None:
    """Makes the terminal on stdin that of the new session, so that keys become signals."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def alive(process: psutil.Process) -> bool:
    """A zombie process counts as dead."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def listening(process: psutil.Process) -> list[str]:
    """The addresses at which it takes connections; none of one that is gone."""
    try:
        sockets = process.net_connections("inet")
    except psutil.Error:
        return []
    return [f"{socket.laddr.ip}:{socket.laddr.port}" for socket in sockets if socket.status == psutil.CONN_LISTEN]


def beyond_loopback(addresses: Iterable[str]) -> list[str]:
    """Those that others than this machine can reach."""
    return [at for at in addresses if not at.rpartition(":")[0].endswith("127.0.0.1")]


def _title(process: psutil.Process) -> str:
    """What the process calls itself; empty when it is gone."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def is_rank(process: psutil.Process) -> bool:
    """Whether it is one of several that train one network."""
    title = _title(process)
    return title.startswith("ray::") and "TrainWorker" in title


def is_actor(process: psutil.Process) -> bool:
    """Whether trials run in it."""
    title = _title(process)
    return title.startswith("ray::") and any(name in title for name in ("TrialActor", "ResourceTrainable"))


@contextlib.contextmanager
def driving(
    *arguments: str | Path,
    folder: Path,
    env: Mapping[str, str],
    terminal: bool = False,
    fresh: bool = False,
) -> Iterator[Driver]:
    """A driver for the length of the block, and nothing of it afterwards.

    terminal: on a terminal of its own; fresh: in a new interpreter, which a terminal implies, instead of a fork of one.
    """
    driver = Driver([str(argument) for argument in arguments], folder=folder, env=env, terminal=terminal, fresh=fresh)
    try:
        yield driver
    finally:
        driver.end()
