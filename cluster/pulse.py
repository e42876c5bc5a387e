"""Monitors whether the head of a joined cluster still answers; Ray itself is silent for a minute and then ends the driver."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
ASK_EVERY_S = 1.0
WARN_AFTER_S = 5.0
RAY_GIVES_UP = "RAY_gcs_rpc_server_reconnect_timeout_s"
RAY_GIVES_UP_AFTER_S = 60.0  # unless that says otherwise; then Ray ends its driver's process
LOST_AFTER, LEFT_AFTER = 0.6, 0.8  # shares of that time: enough for a restarted head, and before Ray ends this process


def check_grpc(connection: socket.socket) -> None:
    """Raises `ConnectionError` if the other side does not speak gRPC.

    gRPC runs over HTTP/2, where a server answers the connection preface with a SETTINGS frame (RFC 9113, 3.4).
    """
    # The preface, then an empty SETTINGS frame: length 0, type 4, no flags, stream 0.
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")
    answer = b""
    # The header of a frame has 9 bytes, of which the fourth is the type; TCP may deliver fewer at a time.
    while len(answer) < 4 and (more := connection.recv(9)):
        answer += more
    if answer[3:4] != b"\x04":
        raise ConnectionError("something else listens on that port")


def uses_tls() -> bool:
    """Returns whether Ray uses TLS; then the head answers only clients with a certificate, and `check_grpc` cannot be used."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


class HeadMonitor:
    """Asks the head every second in a thread of its own, inside the block, and logs each silence once.

    abandon: called with a message if the head is lost and the block still runs: the main thread may be blocked in a call to the
    head, and Ray would end the process without any message of ours.
    """

    def __init__(self, address: str, abandon: Callable[[str], None] | None = None) -> None:
        self.address, self._abandon = address, abandon
        self._patience_s = float(os.environ.get(RAY_GIVES_UP, RAY_GIVES_UP_AFTER_S))
        self._silent_since: float | None = None
        self._said = False
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="pulse", daemon=True)

    def __enter__(self) -> "HeadMonitor":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._left.set()
        self._thread.join()

    @property
    def silent_s(self) -> float:
        """Returns the seconds since the first unanswered request; 0 if the last request was answered."""
        # Read once, since the thread may reset it between the test and its use.
        since = self._silent_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_lost(self) -> bool:
        """Returns whether the head has been silent for too long to wait for it."""
        return self.silent_s > LOST_AFTER * self._patience_s

    def check(self) -> None:
        """Raises `ConnectionError` if the head is lost."""
        if self.is_lost:
            raise ConnectionError(self._message)

    @property
    def _message(self) -> str:
        return f"the head of the Ray cluster at {self.address} is gone: no answer for {self.silent_s:.0f} s"

    def _ask(self) -> None:
        while not self._left.wait(ASK_EVERY_S):
            asked = time.monotonic()
            if self._answers():
                if self._said:
                    logger.warning("the head of the Ray cluster at %s answers again", self.address)
                self._silent_since, self._said = None, False
            elif self._silent_since is None:
                # Silent since the request, not since it timed out seconds later.
                self._silent_since = asked
            elif self.silent_s > WARN_AFTER_S and not self._said:
                self._said = True
                left = max(0.0, LOST_AFTER * self._patience_s - self.silent_s)
                logger.warning("the head of the Ray cluster at %s does not answer; waiting %.0f s more", self.address, left)
            elif self.silent_s > LEFT_AFTER * self._patience_s and self._abandon is not None:
                self._abandon(self._message)

    def _answers(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            # An IPv6 address stands in brackets before its port, which a socket does not take.
            with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S) as connection:
                if not uses_tls():
                    check_grpc(connection)
        except OSError:
            return False
        return True
