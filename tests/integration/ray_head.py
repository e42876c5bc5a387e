"""A Ray head with its job server and token, started and ended by a test, separate from every other cluster."""

import contextlib
import functools
import os
import secrets
import shutil
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
    """A running head: the URL of its job server, its token, and the environment of its processes."""

    url: str
    token: str
    env: dict[str, str]


_FIRST_PORT, _LAST_PORT = 20100, 32000  # outside the range that Ray gives to workers
_start = _FIRST_PORT + os.getpid() % 50 * 230  # processes that share the suite search apart
_ports = iter([*range(_start, _LAST_PORT), *range(_FIRST_PORT, _start)])


def free_ports(count: int) -> list[int]:
    """Returns free ports, each only once, as some are used long after they are found."""
    found: list[int] = []
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@contextlib.contextmanager
def ray_head(env: Mapping[str, str], *, num_cpus: int = 2, with_token: bool = True) -> Iterator[Head]:
    """Yields a running head; a stock head (`with_token=False`) asks for no token. All of its processes end after the block."""
    scratch = Path(tempfile.mkdtemp(prefix="hd"))  # a short path: sockets lie in it
    node_id = secrets.token_hex(28)
    environment_variables = {
        **{key: value for key, value in env.items() if not key.startswith("RAY_")},
        **({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if with_token else {}),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",  # the default of 15 leaves trainings nothing where a test shares a busy machine
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
    with (scratch / "output").open("w") as output:
        popen = subprocess.Popen(
            command,
            env={**environment_variables, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    head = Head(f"http://127.0.0.1:{dashboard}", environment_variables.get("RAY_AUTH_TOKEN", ""), environment_variables)
    try:
        _wait_until((scratch / "session_latest").exists, popen, scratch / "output")
        write_agent_port(scratch / "session_latest", node_id, agent)
        # the job server responds long before there is a node on which a job can run
        for url in (f"{head.url}/api/version", f"http://127.0.0.1:{agent}/api/local_raylet_healthz"):
            _wait_until(functools.partial(_responds, url, head), popen, scratch / "output")
        yield head
    finally:
        kill_node(popen)
        shutil.rmtree(scratch, ignore_errors=True)


def write_agent_port(session: Path, node_id: str, port: int) -> None:
    """Writes the port of a node's agent where the node looks for it, in the folder of its session.

    Ray 2.60 leaves that to the agent although the port is given, and a node ends itself when it does not find the port
    within 15 s, which nothing can set (ray-project/ray#65983); on a busy machine the agent needs longer to start.
    """
    path = session / f"dashboard_agent_listen_port_{node_id}"
    new_file = path.with_suffix(".new")
    new_file.write_text(str(port))
    new_file.replace(path)


def _wait_until(condition: Callable[[], bool], popen: "subprocess.Popen[bytes]", output: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not condition():
        assert popen.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.1)


def _responds(url: str, head: Head) -> bool:
    with contextlib.suppress(requests.RequestException):
        headers = {"Authorization": f"Bearer {head.token}"} if head.token else {}
        return requests.get(url, headers=headers, timeout=5).ok
    return False


def kill_node(popen: "subprocess.Popen[bytes]") -> None:
    """Kills a `ray start --block` and all processes below it, by process id; an orderly end takes Ray up to half a minute."""
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(popen.pid)
        processes = [top, *top.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
    popen.wait()
