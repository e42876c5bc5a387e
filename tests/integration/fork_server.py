"""Starts `pruneyard` by a fork of a process that has imported everything: importing torch and Ray is most of a short command.

A forked driver is a process of its own with its own session, environment, folder and output, and runs the command's own code.
It leaves out two things: what a command does while it imports, and the charts of the page, which take longer to draw than the
trainings of a test. `driving(..., fresh=True)` starts a new interpreter, with nothing left out.

This file is also the program of that process. Requests come on its stdin and replies go to its stdout, as JSON, one a line:
`{"pid": ...}` for a request, and `{"ended": pid, "code": ...}` once a driver has ended.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import queue
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

READ_AT_START = ("PYTHONPATH", "LD_PRELOAD")  # an interpreter reads them when it starts, so a fork cannot change them


class ForkedDriver:
    """A driver that was forked, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def set_exit_code(self, code: int) -> None:
        """Records its exit code, negative for a signal."""
        self.returncode = code
        self._ended.set()

    def poll(self) -> int | None:
        """Returns the exit code, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code, or raises `subprocess.TimeoutExpired`."""
        if not self._ended.wait(timeout):
            assert timeout is not None
            raise subprocess.TimeoutExpired("pruneyard", timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal to it alone."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """A process that has imported everything; it starts with the environment that most drivers have."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._started: queue.Queue[ForkedDriver] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def can_start(self, env: Mapping[str, str]) -> bool:
        """Returns whether a fork can replace a new interpreter with that environment."""
        return all(env.get(name) == self._env.get(name) for name in READ_AT_START)

    def start(
        self, arguments: Sequence[str], *, folder: Path, env: Mapping[str, str], stdout: Path, stderr: Path
    ) -> ForkedDriver:
        """Starts a driver with its output in two files."""
        request = {"arguments": arguments, "folder": str(folder), "env": dict(env)}
        assert self._process.stdin is not None
        print(json.dumps({**request, "stdout": str(stdout), "stderr": str(stderr)}), file=self._process.stdin, flush=True)
        return self._started.get(timeout=300)

    def _read(self) -> None:
        assert self._process.stdout is not None
        alive: dict[int, ForkedDriver] = {}
        for line in self._process.stdout:
            reply = json.loads(line)
            if "pid" in reply:
                alive[reply["pid"]] = ForkedDriver(reply["pid"])
                self._started.put(alive[reply["pid"]])
            else:
                alive.pop(reply["ended"]).set_exit_code(reply["code"])

    def end(self) -> None:
        """Ends the process, after its drivers have ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _import_everything() -> None:
    """Imports what commands and trainings import late. Nothing is run: torch refuses a backward pass in a fork after another."""
    late_imports = (
        "sklearn.datasets",
        "rich.live",
        "rich.table",
        "pruneyard.orchestrator.cli",
        "pruneyard.orchestrator.driver.run",
        "pruneyard.orchestrator.local_backend.study",
        "pruneyard.orchestrator.ray_backend.study",
        "pruneyard.workloads.sparse.job",
    )
    for name in late_imports:
        importlib.import_module(name)
    import pruneyard.orchestrator.commands as commands
    from pruneyard.reports import page
    from pruneyard.workloads.plugins import find, names

    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{commands.__name__}.{module.name}")
    for kind in ("sparse.methods", "schedules", "optimizers", "objectives", "models", "data.sources"):
        for name in names(kind):
            find(kind, name)
    page.figures = lambda study: []
    gc.freeze()  # otherwise every fork copies the pages that its first garbage collection marks


def _serve() -> None:
    _import_everything()
    sys.path[0] = ""  # as for `python -c`
    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_write, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakeup_write)
    while True:
        ready, _, _ = select.select([0, wakeup_read], [], [])
        if wakeup_read in ready:
            os.read(wakeup_read, 4096)
            for pid, code in _ended_children():
                _reply({"ended": pid, "code": code})
        if 0 in ready:
            request = _next_line()
            if not request:
                return
            pid = os.fork()
            if pid == 0:
                os.close(wakeup_read)
                os.close(wakeup_write)
                _run_driver(**json.loads(request))
            _reply({"pid": pid})


def _next_line() -> bytes:
    """Reads byte by byte, because `select` does not see what a buffer of Python's already holds."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line


def _ended_children() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            yield pid, os.waitstatus_to_exitcode(status)


def _reply(reply: Mapping[str, Any]) -> None:
    os.write(1, f"{json.dumps(reply)}\n".encode())


def _run_driver(arguments: Sequence[str], folder: str, env: Mapping[str, str], stdout: str, stderr: str) -> None:
    """Runs the command of the driver in this process; does not return."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, stdout, os.O_WRONLY), (2, stderr, os.O_WRONLY)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.argv = ["pruneyard", *arguments]
    _exit(_exit_code_of_main())


def _exit_code_of_main() -> int:
    from pruneyard.orchestrator.cli import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _exit(code: int) -> None:
    """Ends as an interpreter does, but without clearing imported modules, which takes seconds in a fork."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
