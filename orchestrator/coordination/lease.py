"""One driver per folder of results, on whichever machine: a lease, renewed while the driver lives and taken over when it is dead.

Within one machine a file lock says at once who lives. Between machines, where locks may not reach, and in an object store, the
lease does: it changes every few seconds, or its holder is dead. Only changes are looked at, so no two clocks need to agree.
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



RENEW_S = 5.0


STALE_S = 30.0  # without a change: the holder is dead, and another may take its place


_LOOK_S = 0.5


_SETTLE_S = 1.0  # in which another one that took over at the same moment would be seen


_held: set[str] = set()  # tokens of this process's leases


_LOCK, _LEASE = ".driver", ".driver.json"


def _kernel() -> str:
    """Which running system this is; empty where it cannot be told."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _processes() -> str:
    """Which numbering of processes this one is in: that of the system, or of a container."""
    with suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _begun(pid: int) -> str:
    """When a process of this machine was started, in ticks; empty where there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


@dataclass(frozen=True, kw_only=True)
class LeaseHolder:
    """Who has the lease."""

    token: str = field(default_factory=lambda: uuid4().hex)
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    since: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
    kernel: str = field(default_factory=_kernel)
    processes: str = field(default_factory=_processes)
    begun: str = field(default_factory=lambda: _begun(os.getpid()))

    @classmethod
    def of(cls, content: bytes) -> "LeaseHolder | None":
        """None for what a kill left of one."""
        try:
            return cls(**{name: value for name, value in json.loads(content).items() if name != "beat"})
        except (ValueError, TypeError, AttributeError):
            return None

    def content(self, beat: int = 0) -> bytes:
        """As it is kept."""
        return json.dumps({**asdict(self), "beat": beat}).encode()

    def lives(self, *, locked: bool) -> bool | None:
        """Whether its process does, where that can be told from here. locked: this process has the lock that it had."""
        if not self.kernel or self.kernel != _kernel():
            return None
        if locked:
            return False
        if (self.pid, self.begun) == (os.getpid(), _begun(os.getpid())):
            return self.token in _held
        return _begun(self.pid) == self.begun if self.processes == _processes() != "" else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


class _Lease(Protocol):
    """Where a lease is kept. Marks differ whenever it has changed."""

    def look(self) -> tuple[LeaseHolder | None, object] | None:
        """The holder and the mark; None where there is no lease."""
        ...

    def take(self, holder: LeaseHolder, *, instead_of: object) -> bool:
        """Whether it was still as `instead_of` says, None for no lease, and now is the holder's."""
        ...

    def renew(self, holder: LeaseHolder) -> bool:
        """Whether it is still the holder's."""
        ...

    def drop(self) -> None:
        """No lease any more."""
        ...


@dataclass
class _FileLease:
    path: Path

    def look(self) -> tuple[LeaseHolder | None, object] | None:
        try:
            with self.path.open("rb") as file:  # opening asks a server for the newest state
                return LeaseHolder.of(file.read()), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def take(self, holder: LeaseHolder, *, instead_of: object) -> bool:
        if instead_of is None:
            return self._make(self.path, holder)
        if (seen := self.look()) is not None and seen[1] != instead_of:
            return False
        aside = self.path.with_name(f"{self.path.name}.{holder.token}")
        self._make(aside, holder)
        os.replace(aside, self.path)
        time.sleep(_SETTLE_S)
        return self.renew(holder)

    @staticmethod
    def _make(path: Path, holder: LeaseHolder) -> bool:
        """Whether there was no such file, on shared folders too."""
        try:
            with path.open("xb") as file:
                file.write(holder.content())
        except FileExistsError:
            return False
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return True

    def renew(self, holder: LeaseHolder) -> bool:
        seen = self.look()
        if seen is None or seen[0] is None or seen[0].token != holder.token:
            return False
        os.utime(self.path)  # needs no space
        return True

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass
class _ObjectLease:
    path: ObjectPath
    beat: int = 0
    tag: str = ""

    def look(self) -> tuple[LeaseHolder | None, object] | None:
        try:
            content, tag = self.path.read_tagged()
        except FileNotFoundError:
            return None
        return LeaseHolder.of(content), tag

    def take(self, holder: LeaseHolder, *, instead_of: object) -> bool:
        tag = self.path.put_if(holder.content(), tag=None if instead_of is None else str(instead_of))
        self.tag = tag or ""
        if tag is not None and instead_of is None:
            self._try_condition(holder)
        return tag is not None or self._is_own(holder)

    def _try_condition(self, holder: LeaseHolder) -> None:
        """Says where the store is one that puts whatever the condition."""
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
        """A put whose answer was lost is repeated, and refused for its own sake."""
        seen = self.look()
        if seen is None or seen[0] is None or seen[0].token != holder.token:
            return False
        self.tag = str(seen[1])
        return True

    def drop(self) -> None:
        self.path.unlink()


class Lease:
    """Held until the block that `hold_lease` opens ends. `lost` says who has it now, once another one does."""

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
                if not said:
                    logger.warning("the lease on the folder of results cannot be renewed: %s", error)
                said = True
                continue
            if not held:
                seen = self._kept.look()
                self.lost = f"another pruneyard has taken the folder of results over ({seen[0] if seen else 'and left it'})"
                self.when_lost(self.lost)
                return

    def _take_again(self) -> bool:
        """A lease that somebody deleted is made anew."""
        return self._kept.look() is None and self._kept.take(self._holder, instead_of=None)

    def end(self) -> None:
        """Lets it go, if it is still held."""
        self._over.set()
        self._thread.join()
        _held.discard(self._holder.token)
        if self.lost is None:
            try:
                self._kept.drop()
            except OSError as error:
                logger.warning(
                    "the lease on the folder of results stays behind, until it is %g s old: %s",
                    STALE_S,
                    error,
                )


@contextmanager
def hold_lease(folder: Location) -> Iterator[Lease]:
    """Refuses, by `UsageError`, where another driver lives; waits up to `STALE_S` where only that can tell.

    Raises `StorageError` where nothing can be written.
    """
    with _locked(folder) as locked:
        with in_words(folder):
            lease = _taken(folder, locked=locked)
        try:
            yield lease
        finally:
            lease.end()


def _taken(folder: Location, *, locked: bool) -> Lease:
    kept: _Lease = (
        _ObjectLease(folder / _LEASE) if isinstance(folder, ObjectPath) else _FileLease(folder / _LEASE)
    )
    holder = LeaseHolder()
    while not kept.take(holder, instead_of=(dead := _dead(kept, folder, locked=locked))):
        if dead is not None:
            raise UsageError(_refusal(folder, kept))
    return Lease(kept, holder)


def _dead(kept: _Lease, folder: Location, *, locked: bool) -> object:
    """The mark of a lease whose holder is dead; None where there is none. Raises `UsageError` where it lives."""
    first = kept.look()
    if first is None:
        return None
    lives = None if first[0] is None else first[0].lives(locked=locked)
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
        time.sleep(_LOOK_S)
        seen = kept.look()
        if seen is None:
            return None
        if seen[1] != first[1]:
            raise UsageError(_refusal(folder, kept))
    return first[1]


def _refusal(folder: Location, kept: _Lease) -> str:
    seen = kept.look()
    who = f" ({seen[0]})" if seen is not None and seen[0] is not None else ""
    return f"{folder}: another pruneyard is running in this folder{who}; wait for it or stop it"


@contextmanager
def _locked(folder: Location) -> Iterator[bool]:
    """Whether a lock is held that no other process of this machine has. Raises `UsageError` where one has it."""
    if isinstance(folder, ObjectPath):
        yield False
        return
    with in_words(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError as error:
            raise UsageError(_refusal(folder, _FileLease(folder / _LEASE))) from error
        except OSError:  # storage that knows no locks
            locked = False
        yield locked
