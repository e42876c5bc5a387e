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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class ObjectStore:
    """The address of the server, and the environment that a process needs to use it."""

    port: int

    @property
    def env(self) -> dict[str, str]:
        """Returns the variables of a process that connects to the server directly."""
        return self.env_for_port(self.port)

    @staticmethod
    def env_for_port(port: int) -> dict[str, str]:
        """Returns the variables of a process that connects through another port, with a single retry to keep tests short."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "an-id-of-tests",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
            "AWS_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "2",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def revoke_credentials(self) -> None:
        """Makes the server refuse all credentials from now on."""
        url = f"{self.env['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        headers = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, data=b"0", headers=headers)).close()

    def client(self) -> object:
        """Returns a boto3 client, for requests that do not go through the product."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Yields a running server with one empty bucket."""
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
def environment_variables(env: Mapping[str, str]) -> Iterator[None]:
    """Sets these variables in this process for the length of the block."""
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


class Proxy:
    """Forwards connections from a port of its own to another port. `delay_s` delays every piece of a request.

    hidden_header: name of a header that does not reach the server.
    num_delayed: pieces of requests that were delayed.
    """

    def __init__(self, port: int) -> None:
        self.delay_s, self._cut, self.num_delayed = 0.0, False, 0
        self.hidden_header = ""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy.forward(self.request, port)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def forward(self, client: socket.socket, port: int) -> None:
        """Forwards a connection until one side closes it."""
        if self._cut:
            return
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
            with self._lock:
                self._open |= {client, server}
            try:
                self._relay(client, server)
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([client, server], [], [], 1.0)
            for source in ready:
                content = source.recv(65536)
                if not content:
                    return
                if source is client and self.delay_s:
                    time.sleep(self.delay_s)
                    with self._lock:
                        self.num_delayed += 1
                if source is client and self.hidden_header:
                    content = content.replace(self.hidden_header.encode(), b"X" * len(self.hidden_header))
                (server if source is client else client).sendall(content)

    def cut(self) -> None:
        """Breaks open connections, and closes new ones at once."""
        self._cut = True
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def restore(self) -> None:
        """Forwards new connections again."""
        self._cut = False

    def close(self) -> None:
        """Stops the proxy for good."""
        self.cut()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def start_proxy(store: ObjectStore) -> Iterator[Proxy]:
    """Yields a proxy in front of the server."""
    proxy = Proxy(store.port)
    try:
        yield proxy
    finally:
        proxy.close()
