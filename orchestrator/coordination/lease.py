"""Ensures one driver per results folder across machines: a lease that the driver renews, and that others take over if it dies.

On one machine a file lock decides at once whether the holder is alive. Between machines, where locks may not work, and in an
object store, a lease that has not changed for `STALE_S` has a dead holder. Only changes count, so clocks need not agree.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from pruneyard.orchestrator.errors import UsageError
from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import in_words

logger = logging.getLogger(__name__)

RENEW_S = 5.0  # a sixth of `STALE_S`, so that a few writes may be slow or fail without losing the lease
STALE_S = 30.0  # a lease unchanged for so long has a dead holder, and may be taken over
_POLL_S = 0.5
_SETTLE_S = 1.0  # long enough to see another driver that took over at the same time

_held: set[str] = set()  # tokens of the leases that this process holds

_LOCK, _LEASE = ".driver", ".driver.json"


def _kernel() -> str:
    """Returns the boot id of the running system; empty if unknown."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _processes() -> str:
    """Returns the PID namespace of this process, of the system or of a container; empty if unknown."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _begun(pid: int) -> str:
    """Returns the start time of a process of this machine in clock ticks; empty if there is no such process."""
    with suppress(OSError):
        # The command in parentheses may contain spaces and parentheses, so fields are counted after the last one.
        # Index 19 there is field 22 of proc(5), the start time.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


@dataclass(frozen=True, kw_only=True)
class LeaseHolder:
    """The driver that holds a lease.

    kernel, processes, begun: boot id, PID namespace and start time of its process; they tell a reused pid from a live holder.
    """

    token: str = field(default_factory=lambda: uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    since: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    kernel: str = field(default_factory=_kernel)
    processes: str = field(default_factory=_processes)
    begun: str = field(default_factory=lambda: _begun(os.getpid()))

    @classmethod
    def of(cls, content: bytes) -> "LeaseHolder | None":
        """Parses the content of a lease; returns None if a kill left it incomplete."""
        try:
            return cls(**{name: value for name, value in json.loads(content).items() if name != "beat"})
        # TypeError if the fields are those of another version, AttributeError if the content is not a table.
        except (ValueError, TypeError, AttributeError):
            return None

    def content(self, beat: int = 0) -> bytes:
        """Returns the content of the lease; `beat` makes each renewal differ."""
        return json.dumps({**asdict(self), "beat": beat}).encode()

    def is_alive(self, *, locked: bool) -> bool | None:
        """Returns whether the holder's process is alive; None if this machine cannot tell.

        locked: whether this process holds the file lock that a living holder on this machine would hold.
        """
        # The boot id differs on another machine, and on this one after a restart.
        if not self.kernel or self.kernel != _kernel():
            return None
        # A living holder on this machine would have the lock that this process has got.
        if locked:
            return False
        # This process may have failed to delete its own earlier lease, which must not lock it out.
        if (self.pid, self.begun) == (os.getpid(), _begun(os.getpid())):
            return self.token in _held
        # A pid means the same process only within one PID namespace.
        return _begun(self.pid) == self.begun if self.processes == _processes() != "" else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class _Lease(Protocol):
    """The storage of a lease. Each change gives it a new version."""

    def read(self) -> tuple[LeaseHolder | None, object] | None:
        """Returns the holder and the version; None if there is no lease."""
        ...

    def acquire(self, holder: LeaseHolder, *, instead_of: object) -> bool:
        """Takes the lease if its version is still `instead_of` (None: no lease); returns whether the holder has it now."""
        ...

    def renew(self, holder: LeaseHolder) -> bool:
        """Changes the version; returns whether the lease still belongs to the holder."""
        ...

    def delete(self) -> None:
        """Deletes the lease."""
        ...


@dataclass
class _FileLease:
    path: Path

    def read(self) -> tuple[LeaseHolder | None, object] | None:
        try:
            with self.path.open("rb") as file:  # opening makes an NFS client fetch the newest state
                return LeaseHolder.of(file.read()), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def acquire(self, holder: LeaseHolder, *, instead_of: object) -> bool:
        if instead_of is None:
            return self._make(self.path, holder)
        if (seen := self.read()) is not None and seen[1] != instead_of:
            return False
        # The token makes the name unique: two drivers may replace a dead lease at the same time.
        aside = self.path.with_name(f"{self.path.name}.{holder.token}")
        self._make(aside, holder)
        os.replace(aside, self.path)
        # The last replacement wins; after the pause, both drivers read the same winner.
        time.sleep(_SETTLE_S)
        return self.renew(holder)

    @staticmethod
    def _make(path: Path, holder: LeaseHolder) -> bool:
        """Creates the file exclusively, which works on shared folders too; returns whether there was none."""
        try:
            with path.open("xb") as file:
                file.write(holder.content())
        except FileExistsError:
            return False
        except OSError:
            # An incomplete lease names no holder, and every later driver would wait for `STALE_S`.
            path.unlink(missing_ok=True)
            raise
        return True

    def renew(self, holder: LeaseHolder) -> bool:
        seen = self.read()
        if seen is None or seen[0] is None or seen[0].token != holder.token:
            return False
        os.utime(self.path)  # needs no space
        return True

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass
class _ObjectLease:
    path: ObjectPath
    beat: int = 0
    tag: str = ""

    def read(self) -> tuple[LeaseHolder | None, object] | None:
        try:
            content, tag = self.path.read_tagged()
        except FileNotFoundError:
            return None
        return LeaseHolder.of(content), tag

    def acquire(self, holder: LeaseHolder, *, instead_of: object) -> bool:
        tag = self.path.put_if(holder.content(), tag=None if instead_of is None else str(instead_of))
        self.tag = tag or ""
        if tag is not None and instead_of is None:
            self._try_condition(holder)
        return tag is not None or self._is_own(holder)

    def _try_condition(self, holder: LeaseHolder) -> None:
        """Warns if the object store ignores the condition of a conditional put."""
        # The object exists by now, so the store should refuse this put.
        if (tag := self.path.put_if(holder.content(), tag=None)) is not None:
            self.tag = tag
            logger.warning(
                "%s: this store ignores If-None-Match; see to it that only one driver uses the folder",
                self.path.parent,
            )

    def renew(self, holder: LeaseHolder) -> bool:
        self.beat += 1
        tag = self.path.put_if(holder.content(self.beat), tag=self.tag)
        self.tag = tag or self.tag
        return tag is not None or self._is_own(holder)

    def _is_own(self, holder: LeaseHolder) -> bool:
        """Returns whether the lease is this holder's: a put whose answer was lost is repeated, and then refused."""
        seen = self.read()
        if seen is None or seen[0] is None or seen[0].token != holder.token:
            return False
        self.tag = str(seen[1])
        return True

    def delete(self) -> None:
        self.path.unlink()


class Lease:
    """A lease that a thread renews until `end`. `lost` describes the new holder once another driver has taken it over."""

    def __init__(self, kept: _Lease, holder: LeaseHolder) -> None:
        self._kept, self._holder = kept, holder
        self._over = threading.Event()
        _held.add(holder.token)
        self.lost: str | None = None
        self.when_lost: Callable[[str], None] = lambda text: None
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease")
        self._thread.start()

    def _keep(self) -> None:
        said = False
        while not self._over.wait(RENEW_S):
            try:
                held = self._kept.renew(self._holder) or self._take_again()
            except OSError as error:
                # Storage may come back before the lease is stale, so this is not the end of the study.
                if not said:
                    logger.warning("the lease on the folder of results cannot be renewed: %s", error)
                said = True
                continue
            if not held:
                seen = self._kept.read()
                self.lost = f"another pruneyard has taken the folder of results over ({seen[0] if seen else 'and left it'})"
                self.when_lost(self.lost)
                return

    def _take_again(self) -> bool:
        """Creates the lease again if somebody deleted it."""
        return self._kept.read() is None and self._kept.acquire(self._holder, instead_of=None)

    def end(self) -> None:
        """Stops renewing, and deletes the lease if this driver still holds it."""
        self._over.set()
        # Joined before the lease is deleted: the thread would create it again.
        self._thread.join()
        _held.discard(self._holder.token)
        if self.lost is None:
            try:
                self._kept.delete()
            except OSError as error:
                logger.warning(
                    "the lease on the folder of results stays behind, until it is %g s old: %s",
                    STALE_S,
                    error,
                )


@contextmanager
def hold_lease(folder: Location) -> Iterator[Lease]:
    """Holds the lease on a results folder inside the block.

    Raises `UsageError` if another driver is alive; waits up to `STALE_S` if only waiting can tell. Raises `StorageError` if
    nothing can be written.
    """
    with _locked(folder) as locked:
        with in_words(folder):
            lease = _acquire(folder, locked=locked)
        try:
            yield lease
        finally:
            lease.end()


def _acquire(folder: Location, *, locked: bool) -> Lease:
    kept: _Lease = (
        _ObjectLease(folder / _LEASE) if isinstance(folder, ObjectPath) else _FileLease(folder / _LEASE)
    )
    holder = LeaseHolder()
    while not kept.acquire(holder, instead_of=(dead := _dead(kept, folder, locked=locked))):
        # Without a lease before: somebody has created one in between, which is judged by the next iteration.
        if dead is not None:
            raise UsageError(_refusal(folder, kept))
    return Lease(kept, holder)


def _dead(kept: _Lease, folder: Location, *, locked: bool) -> object:
    """Returns the version of a lease whose holder is dead; None if there is no lease. Raises `UsageError` if it is alive."""
    first = kept.read()
    if first is None:
        return None
    lives = None if first[0] is None else first[0].is_alive(locked=locked)
    if lives:
        raise UsageError(_refusal(folder, kept))
    if lives is False:
        return first[1]
    logger.warning(
        "%s: a driver was at work here (%s); waiting up to %g s to see whether it still is",
        folder,
        first[0],
        STALE_S,
    )
    until = time.monotonic() + STALE_S
    while time.monotonic() < until:
        time.sleep(_POLL_S)
        seen = kept.read()
        if seen is None:
            return None
        if seen[1] != first[1]:
            raise UsageError(_refusal(folder, kept))
    return first[1]


def _refusal(folder: Location, kept: _Lease) -> str:
    seen = kept.read()
    who = f" ({seen[0]})" if seen is not None and seen[0] is not None else ""
    return f"{folder}: another pruneyard is running in this folder{who}; wait for it or stop it"


@contextmanager
def _locked(folder: Location) -> Iterator[bool]:
    """Yields whether a file lock is held. Raises `UsageError` if another process of this machine holds it."""
    if isinstance(folder, ObjectPath):
        yield False
        return
    with in_words(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # The lock lasts while the file is open; the kernel releases it if the process crashes. Nobody deletes the file: one
        # process could then lock a file without a name, and another one a new file of this name.
        file = (folder / _LOCK).open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError as error:
            raise UsageError(_refusal(folder, _FileLease(folder / _LEASE))) from error
        except OSError:  # the storage does not support locks
            locked = False
        yield locked
