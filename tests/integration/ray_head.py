"""A Ray head with its job server and token, started and ended by a test, separate from every other cluster."""

import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
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
def ray_head(env: Mapping[str, str], *, num_cpus: int = 2, with_token: bool = True) -> Iterator[Head]:
    """A stock head asks for no token. Ends with every process that belongs to it, known by its session and by being below it."""
    scratch = Path(tempfile.mkdtemp(prefix="hd"))  # a short path: sockets lie in it
    node_id = secrets.token_hex(28)
    environment = {
        **{key: value for key, value in env.items() if not key.startswith("RAY_")},
        **({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if with_token else {}),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",  # of 15, which leaves trainings nothing where a test shares a busy machine
    }
    gcs, dashboard, client, agent, agent_grpc, metrics, env_agent = free_ports(7)
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--num-cpus={num_cpus}", f"--temp-dir={scratch}"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"),
        *(
            f"--runtime-env-agent-port={env_agent}",
            "--object-store-memory=200000000",
            "--disable-usage-stats",
        ),
    ]
    with (scratch / "said").open("w") as said:
        popen = subprocess.Popen(
            command,
            env={**environment, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    head = Head(f"http://127.0.0.1:{dashboard}", environment.get("RAY_AUTH_TOKEN", ""), environment)
    try:
        _wait_until((scratch / "session_latest").exists, popen, scratch / "said")
        tell_node(scratch / "session_latest", node_id, agent)
        # the job server answers long before there is a node on which a job can run
        for url in (f"{head.url}/api/version", f"http://127.0.0.1:{agent}/api/local_raylet_healthz"):
            _wait_until(functools.partial(_answers, url, head), popen, scratch / "said")
        yield head
    finally:
        end_node(popen)
        shutil.rmtree(scratch, ignore_errors=True)


def tell_node(session: Path, node_id: str, port: int) -> None:
    """Tells a node, in the folder of its session, where its agent is going to listen.

    Ray 2.60 leaves that to the agent although the port is given, and a node ends itself when it has not been told
    within 15 s, which nothing can set (ray-project/ray#65983); on a busy machine the agent needs longer to start.
    """
    path = session / f"dashboard_agent_listen_port_{node_id}"
    aside = path.with_suffix(".new")
    aside.write_text(str(port))
    aside.replace(path)


def _wait_until(fact: Callable[[], bool], popen: "subprocess.Popen[bytes]", said: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not fact():
        assert popen.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)


def _answers(url: str, head: Head) -> bool:
    with contextlib.suppress(requests.RequestException):
        headers = {"Authorization": f"Bearer {head.token}"} if head.token else {}
        return requests.get(url, headers=headers, timeout=5).ok
    return False


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
