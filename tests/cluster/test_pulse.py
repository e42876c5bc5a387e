"""A head that stops responding is reported once, waited for, and then given up."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pruneyard.cluster import pulse as pulse_module
from pruneyard.cluster.pulse import RAY_GIVES_UP, HeadMonitor

SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # the frame with which HTTP/2 answers


@contextmanager
def head(port: int = 0) -> Iterator[int]:
    """Listens on a port and greets as gRPC does."""
    with socket.create_server(("127.0.0.1", port)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1024)
                    connection.sendall(SETTINGS)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture(autouse=True)
def fast_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse_module, "ASK_EVERY_S", 0.02)
    monkeypatch.setattr(pulse_module, "WARN_AFTER_S", 0.2)
    monkeypatch.setenv(RAY_GIVES_UP, "1.0")  # so lost after 0.6 s, and left after 0.8 s


def wait_until_silent(pulse: HeadMonitor, seconds: float) -> None:
    deadline = time.monotonic() + 20
    while pulse.silent_s <= seconds:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_head_that_responds_is_never_lost() -> None:
    with head() as port, HeadMonitor(f"127.0.0.1:{port}") as pulse:
        time.sleep(1.0)
        pulse.check()


def test_a_head_that_is_gone_is_said_once_and_then_lost(caplog: pytest.LogCaptureFixture) -> None:
    left: list[str] = []
    with head() as port:
        pulse = HeadMonitor(f"127.0.0.1:{port}", left.append)
        pulse.__enter__()
        time.sleep(0.1)
    wait_until_silent(pulse, 0.3)
    assert not left
    wait_until_silent(pulse, 0.6)
    with pytest.raises(ConnectionError, match=rf"the head of the Ray cluster at 127.0.0.1:{port} is gone"):
        pulse.check()
    wait_until_silent(pulse, 1.0)
    pulse.__exit__(None, None, None)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "does not answer; waiting" in caplog.text
    assert left, "who has not left by then is told to"


def test_a_head_that_comes_back_in_time_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    with head() as port:
        pulse = HeadMonitor(f"127.0.0.1:{port}")
        pulse.__enter__()
        time.sleep(0.1)
    wait_until_silent(pulse, 0.3)
    with head(port):
        deadline = time.monotonic() + 20
        while pulse.silent_s:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(1.0)
        pulse.check()
    pulse.__exit__(None, None, None)
    assert "answers again" in caplog.text
