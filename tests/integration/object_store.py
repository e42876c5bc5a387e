"""A real S3 server (moto) in its own process on loopback, behind a proxy that can be slow or cut."""

import contextlib
import os
import select
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import boto3

BUCKET = "yard"
STARTS_WITHIN_S = 120


def free_port() -> int:
    """Returns a port that no process listens on at this moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True)
class ObjectStore:
    """Where the server listens, and what a process needs in its environment to use it."""

    port: int

    @property
    def env(self) -> dict[str, str]:
        """Straight to the server."""
        return self.env_at(self.port)

    @staticmethod
    def env_at(port: int) -> dict[str, str]:
        """Through another port; requests are repeated once, so that tests of a store that is gone are short."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "an-id-of-tests",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
            "AWS_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "2",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def refuse_all(self) -> None:
        """From now on no credentials are good."""
        where = f"{self.env['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(where, data=b"0", headers=plain)).close()

    def client(self) -> object:
        """For what tests do behind the product's back."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """With one empty bucket, for the length of the block."""
    store = ObjectStore(free_port())
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(store.port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(store, server)
        store.client().create_bucket(Bucket=BUCKET)  # type: ignore[attr-defined]
        yield store
    finally:
        server.kill()
        server.wait()


def _wait_for(store: ObjectStore, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(store.env["AWS_ENDPOINT_URL"], timeout=5).close()
            return
        assert server.poll() is None, "the S3 server ended before it answered"
        assert time.monotonic() < deadline, f"the S3 server did not answer within {STARTS_WITHIN_S} s"
        time.sleep(0.1)


@contextlib.contextmanager
def environment(env: Mapping[str, str]) -> Iterator[None]:
    """These variables in this process, for the length of the block."""
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Wire:
    """Carries connections on a port of its own to another one. `delay_s` is that of every piece of a request.

    deaf_to: the name of a header that the server is not to know.
    delayed: pieces that came late for that.
    """

    def __init__(self, port: int) -> None:
        self.delay_s, self._cut, self.delayed = 0.0, False, 0
        self.deaf_to = ""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        wire = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                wire.carry(self.request, port)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def carry(self, near: socket.socket, port: int) -> None:
        """Until one side ends."""
        if self._cut:
            return
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as far:
            with self._lock:
                self._open |= {near, far}
            try:
                self._both_ways(near, far)
            finally:
                with self._lock:
                    self._open -= {near, far}

    def _both_ways(self, near: socket.socket, far: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([near, far], [], [], 1.0)
            for source in ready:
                content = source.recv(65536)
                if not content:
                    return
                if source is near and self.delay_s:
                    time.sleep(self.delay_s)
                    with self._lock:
                        self.delayed += 1
                if source is near and self.deaf_to:
                    content = content.replace(self.deaf_to.encode(), b"X" * len(self.deaf_to))
                (far if source is near else near).sendall(content)

    def cut(self) -> None:
        """Connections break, and new ones end at once."""
        self._cut = True
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """New ones are carried again."""
        self._cut = False

    def close(self) -> None:
        """For good."""
        self.cut()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def wire_to(store: ObjectStore) -> Iterator[Wire]:
    """A wire to the server, for the length of the block."""
    wire = Wire(store.port)
    try:
        yield wire
    finally:
        wire.close()
