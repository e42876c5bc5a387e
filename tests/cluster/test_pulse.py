"""A head that stops responding is reported once, waited for, and then given up."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pruneyard.cluster import pulse as pulse_module
from pruneyard.cluster.pulse import RAY_GIVES_UP, HeadMonitor

SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # the frame with which HTTP/2 answers


class Clock:
    """Stands in for the monitor's module `time`: seconds pass only where a test says so, however busy the machine is."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pulse_module, "time", clock)
    monkeypatch.setattr(pulse_module, "ASK_EVERY_S", 0.01)
    monkeypatch.setenv(RAY_GIVES_UP, "100")  # so lost after 60 s, and left after 80 s
    return clock


class Head:
    """A port that greets as gRPC does, and counts whom it greeted."""

    def __init__(self, server: socket.socket) -> None:
        self.port, self.greeted, self._server = server.getsockname()[1], 0, server

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.recv(1024)
                connection.sendall(SETTINGS)
            self.greeted += 1


@contextmanager
def listening_head(port: int = 0) -> Iterator[Head]:
    with socket.create_server(("127.0.0.1", port)) as server:
        head = Head(server)
        thread = threading.Thread(target=head.serve, daemon=True)
        thread.start()
        yield head
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def silenced(clock: Clock, abandon: Callable[[str], None] | None = None) -> Iterator[HeadMonitor]:
    """A monitor whose head answered and then stopped; the monitor has just noticed."""

    def silence_is_noticed() -> bool:
        clock.now += 0.001
        return monitor.silent_s > 0

    with listening_head() as head:
        monitor = HeadMonitor(f"127.0.0.1:{head.port}", abandon)
        monitor.__enter__()
        wait_until(lambda: head.greeted)
    wait_until(silence_is_noticed)
    yield monitor
    monitor.__exit__(None, None, None)


def test_a_head_that_responds_is_never_lost(clock: Clock) -> None:
    with listening_head() as head, HeadMonitor(f"127.0.0.1:{head.port}") as monitor:
        for answers in range(1, 6):
            wait_until(lambda answers=answers: head.greeted >= answers)
            clock.now += 1000.0
            monitor.check()
        assert not monitor.silent_s


def test_a_head_that_is_gone_is_said_once_and_then_lost(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    left: list[str] = []
    with silenced(clock, left.append) as monitor:
        clock.now += 30.0
        wait_until(lambda: caplog.records)
        monitor.check()
        clock.now += 31.0
        with pytest.raises(ConnectionError, match=f"the head of the Ray cluster at {monitor.address} is gone"):
            monitor.check()
        assert not left, "the driver has time to leave by itself"
        clock.now += 20.0
        wait_until(lambda: left)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "does not answer; waiting" in caplog.text


def test_a_head_that_comes_back_in_time_is_not_lost(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with silenced(clock) as monitor:
        clock.now += 30.0
        wait_until(lambda: caplog.records)
        with listening_head(int(monitor.address.rpartition(":")[2])):
            wait_until(lambda: not monitor.silent_s)
            clock.now += 1000.0
            monitor.check()
    assert "answers again" in caplog.text
