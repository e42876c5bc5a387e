"""Errors, and how soon they come, for an address where a service listens that is not a Ray cluster."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pruneyard.cluster import session as session_module
from pruneyard.cluster.session import session


@contextmanager
def listening(answer: bytes | None) -> Iterator[int]:
    """Listens on a port that accepts every connection, and answers and closes it unless `answer` is None."""
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                kept.append(connection)
                if answer is not None:
                    connection.recv(1024)
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in kept:
        connection.close()


@pytest.mark.parametrize("mode", ["disabled", "token"])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "timed out"),
        (b"", "something else listens on that port"),
        (b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n", "something else listens on that port"),
        (b"-E\r\n", "something else listens on that port"),
    ],
    ids=["silent", "closing", "http", "short"],
)
def test_a_port_that_is_no_ray_cluster_is_said_in_seconds(
    answer: bytes | None, message: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only silence lasts as long as the limit, which is far from what an answer takes on a busy machine elsewhere.
    monkeypatch.setattr(session_module, "CONNECT_TIMEOUT_S", 0.5 if answer is None else 60.0)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    started = time.monotonic()
    with listening(answer) as port, pytest.raises(ConnectionError) as caught, session(f"127.0.0.1:{port}"):
        pass
    assert str(caught.value) == f"no Ray cluster answers at 127.0.0.1:{port}: {message}"
    assert time.monotonic() - started < 30


def test_a_port_where_nothing_listens_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"no Ray cluster answers at 127.0.0.1:{port}: .*refused"):
        session(f"127.0.0.1:{port}").__enter__()


def test_a_folder_too_long_for_sockets_is_said_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 25)))
    with pytest.raises(ConnectionError, match="set RAY_TMPDIR to a short folder, such as /tmp"), session():
        pass
