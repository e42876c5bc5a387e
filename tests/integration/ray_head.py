"""A Ray head with its job server, started and ended by a test: token on, loopback, apart from every other cluster."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

STARTS_WITHIN_S = 180.0


@dataclass(frozen=True)
class Head:
    """Where its job server listens, the token, and its processes' environment."""

    url: str
    token: str
    env: dict[str, str]


def free_ports(count: int) -> list[int]:
    """Outside the range that Ray gives to workers."""
    found: list[int] = []
    for port in range(20100 + os.getpid() % 5000, 32000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@contextlib.contextmanager
def ray_head(env: Mapping[str, str], *, num_cpus: int = 2) -> Iterator[Head]:
    """Ends with every process that belongs to it, known by its session and by being below it."""
    token = secrets.token_hex(32)
    scratch = Path(tempfile.mkdtemp(prefix="hd"))  # a short path: sockets lie in it
    gcs, dashboard, client, agent, agent_grpc, metrics, env_agent = free_ports(7)
    environment = {
        **{key: value for key, value in env.items() if not key.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        *(
            str(Path(sys.executable).parent / "ray"),
            "start",
            "--head",
            "--block",
            "--node-ip-address=127.0.0.1",
        ),
        *(
            f"--port={gcs}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
            "--include-dashboard=true",
        ),
        *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"),
        *(f"--runtime-env-agent-port={env_agent}", f"--num-cpus={num_cpus}", f"--temp-dir={scratch}"),
        *("--object-store-memory=200000000", "--disable-usage-stats"),
    ]
    with (scratch / "said").open("w") as said:
        popen = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{dashboard}"
        _wait_for(url, token, popen, scratch / "said")
        yield Head(url, token, environment)
    finally:
        end_node(popen)
        shutil.rmtree(scratch, ignore_errors=True)


def _wait_for(url: str, token: str, popen: "subprocess.Popen[bytes]", said: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        assert popen.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        with contextlib.suppress(requests.RequestException):
            answer = requests.get(
                f"{url}/api/version", headers={"Authorization": f"Bearer {token}"}, timeout=5
            )
            if answer.status_code == 200:
                return
        time.sleep(0.5)


def end_node(popen: "subprocess.Popen[bytes]") -> None:
    """`ray start --block` ends its own processes on SIGTERM; what is left after that is killed by its id."""
    below = psutil.Process(popen.pid).children(recursive=True) if popen.poll() is None else []
    popen.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(timeout=20)
    _, left = psutil.wait_procs(below, timeout=5)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)
    if popen.poll() is None:
        popen.kill()
        popen.wait()
