"""Watches Ray's own processes on the driver's node, and reports which of them died.

The node's raylet ends when one of its agents does, and a driver cannot do without it: Ray's client library ends the driver's
process a tenth of a second later, without a word. So a death is reported within milliseconds. On systems without /proc and pidfd
nothing is watched.
"""

import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_PROCESSES = Path("/proc")
# Parts of command lines, and what the processes are. The agents change theirs when they have started.
AGENTS = {
    "ray::DashboardAgent": "dashboard agent",
    "dashboard/agent.py": "dashboard agent",
    "ray::RuntimeEnvAgent": "runtime environment agent",
    "runtime_env/agent/main.py": "runtime environment agent",
}
HEAD = {"gcs/gcs_server": "head (GCS)"}
DISPENSABLE = {
    "_private/log_monitor.py": "log monitor",
    "_private/monitor.py": "autoscaler",
    "dashboard/dashboard.py": "dashboard",
}

LOOK_EVERY_S = 0.25  # while Ray starts
STARTED, END = b"s", b"e"  # messages to the thread


@dataclass(frozen=True, kw_only=True)
class RayProcess:
    """A process of Ray on this node. is_vital: whether the driver cannot do without it."""

    name: str
    pid: int
    is_vital: bool


def processes_of_node(raylet_socket: str | None) -> list[RayProcess]:
    """Returns Ray's processes on this node: the raylet with this socket and its agents, and what else this process started.

    raylet_socket: None for the raylet that this process started.
    """
    table = dict(_process_table())
    raylet, found = _raylet(table, raylet_socket), []
    for pid, (parent, words) in table.items():
        line = " ".join(words)
        if pid == raylet:
            found.append(RayProcess(name="raylet", pid=pid, is_vital=True))
        elif parent == raylet:
            found += [RayProcess(name=name, pid=pid, is_vital=True) for part, name in AGENTS.items() if part in line]
        elif parent == os.getpid():
            found += [RayProcess(name=name, pid=pid, is_vital=True) for part, name in HEAD.items() if part in line]
            found += [RayProcess(name=name, pid=pid, is_vital=False) for part, name in DISPENSABLE.items() if part in line]
    return found


def _raylet(table: Mapping[int, tuple[int, list[str]]], socket: str | None) -> int | None:
    """Returns the pid of the raylet; None if it does not run. A child has its command line until it runs its own program."""
    option = "--raylet_socket_name="
    named = {pid: word for pid, (_, words) in table.items() for word in words if word.startswith(option)}
    if socket is None:
        return next((pid for pid in named if table[pid][0] == os.getpid()), None)
    return next((pid for pid, word in named.items() if word == option + socket and table[pid][0] not in named), None)


def _process_table() -> Iterator[tuple[int, tuple[int, list[str]]]]:
    """Yields pid, and parent and command line, of every process; nothing on systems without /proc."""
    for folder in _PROCESSES.glob("[0-9]*"):
        with suppress(OSError):  # it has ended in the meantime
            # The command in parentheses may contain spaces and parentheses; the parent is the second field after it.
            parent = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            yield int(folder.name), (parent, words)


@contextmanager
def watch_processes(find: Callable[[], Sequence[RayProcess]], on_death: Callable[[str], None]) -> Iterator["ProcessWatch"]:
    """Calls `on_death` with a message when the first vital process dies inside the block; logs a warning for the others.

    find: returns the processes. Until `set_started` of the watch is called, it is asked again and again, and a head or raylet
        that ends by itself does not count: Ray raises then, and says why it could not start.
    """
    watch = ProcessWatch(find, on_death)
    thread = threading.Thread(target=watch.run, name="ray-processes", daemon=True)
    if hasattr(os, "pidfd_open"):
        thread.start()
    try:
        yield watch
    finally:
        watch.end()
        if thread.ident is not None:
            thread.join()
        watch.close()


class ProcessWatch:
    """Waits for the end of processes in a thread, see `watch_processes`."""

    def __init__(self, find: Callable[[], Sequence[RayProcess]], on_death: Callable[[str], None]) -> None:
        self._find, self._on_death = find, on_death
        self._watched: dict[int, RayProcess] = {}
        self._woken, self._wake = os.pipe()
        self._is_started = False

    def set_started(self) -> None:
        """Makes the death of any vital process that runs now the end of the cluster."""
        self._is_started = True
        os.write(self._wake, STARTED)

    def end(self) -> None:
        """Ends the thread."""
        os.write(self._wake, END)

    def close(self) -> None:
        """Closes all descriptors, after the thread has ended."""
        for descriptor in [*self._watched, self._woken, self._wake]:
            os.close(descriptor)

    def run(self) -> None:
        """Waits until `end` is called or a vital process has died."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        while self._step(poll):
            pass

    def _step(self, poll: select.poll) -> bool:
        """Waits for the next event; returns whether to go on."""
        was_started = self._is_started
        if not was_started:
            self._look(poll)
        ended = [descriptor for descriptor, _ in poll.poll(None if was_started else 1e3 * LOOK_EVERY_S)]
        if self._woken in ended:
            if os.read(self._woken, 1) == END:
                return False
            self._look(poll)
            ended.remove(self._woken)
        return not any(self._is_end(descriptor, poll) for descriptor in sorted(ended, key=self._is_raylet))

    def _look(self, poll: select.poll) -> None:
        known = {process.pid for process in self._watched.values()}
        for process in self._find():
            if process.pid not in known:
                with suppress(ProcessLookupError):  # it has ended in the meantime
                    descriptor = os.pidfd_open(process.pid)
                    self._watched[descriptor] = process
                    poll.register(descriptor, select.POLLIN)

    def _is_raylet(self, descriptor: int) -> bool:
        # If an agent and the raylet have died together, the agent is the cause.
        return self._watched[descriptor].name == "raylet"

    def _is_end(self, descriptor: int, poll: select.poll) -> bool:
        """Reports a death; returns whether it was the end of the cluster."""
        process = self._watched.pop(descriptor)
        poll.unregister(descriptor)
        number = _signal_that_killed(descriptor)
        os.close(descriptor)
        cause = f", killed by {signal.Signals(number).name}" if number else ""
        if not process.is_vital:
            logger.warning("Ray's %s died (process %d%s); the study continues without it", process.name, process.pid, cause)
            return False
        if not self._is_started and not number and not self._ends_its_raylet(process):
            return False
        when = "" if self._is_started else " while Ray started"
        self._on_death(
            f"Ray's {process.name} on this node died{when} (process {process.pid}{cause}), and the cluster is lost with it; the "
            "system kills processes when memory is short"
        )
        return True

    def _ends_its_raylet(self, process: RayProcess) -> bool:
        """Returns whether it is an agent whose raylet still runs; a raylet that ends by itself takes its agents with it."""
        return process.name in AGENTS.values() and any(other.name == "raylet" for other in self._watched.values())


def _signal_that_killed(descriptor: int) -> int:
    """Returns the signal that ended a child of this process; 0 for one that exited by itself, or is no child."""
    try:
        # Ray waits for its processes itself, so nothing is taken from it.
        status = os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return 0
    return status.si_status if status is not None and status.si_code in (os.CLD_KILLED, os.CLD_DUMPED) else 0
