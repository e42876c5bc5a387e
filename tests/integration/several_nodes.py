"""A Ray cluster of several nodes on this machine, each in its own process group, to be killed by process id."""

import contextlib
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import ray
from driving import alive, is_actor
from ray_head import STARTS_WITHIN_S, free_ports, kill_node, write_agent_port

MAX_NODES = 16  # that one test starts, including those that it kills
FAST_FAILURE_DETECTION = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
}
"""With these settings a lost node counts as dead after about 2 s; with Ray's defaults it takes about 15 s."""

HOLDING_JOB = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=1)
class Holder:
    def here(self): return 1
holder = Holder.remote()
ray.get(holder.here.remote())
print("holds", flush=True)
time.sleep(600)
"""


@dataclass
class Node:
    """One `ray start --block`, and the processes below it as they were when it was ready."""

    name: str
    node_id: str
    popen: "subprocess.Popen[bytes]"
    log: Path

    @property
    def raylet(self) -> psutil.Process:
        return self._child("raylet")

    def _child(self, name: str) -> psutil.Process:
        (found,) = [p for p in psutil.Process(self.popen.pid).children() if p.name() == name]
        return found

    def trials(self) -> list[psutil.Process]:
        """Returns the processes in which trials run."""
        return [
            process
            for process in self.raylet.children(recursive=True)
            if alive(process) and is_actor(process)
        ]

    def kill_gcs(self) -> None:
        """Kills the process that makes a node the head, and no other one, which `ray start --block` would do next."""
        self.popen.send_signal(signal.SIGSTOP)
        self._child("gcs_server").kill()

    def kill_raylet(self) -> None:
        """Kills the raylet: the cluster loses the node at once, and its other processes notice later."""
        self.raylet.kill()

    def kill(self) -> None:
        """Kills every process of the node, as when a machine fails."""
        kill_node(self.popen)


@dataclass
class Nodes:
    """The nodes of a cluster; the head is `nodes["head"]`. Commands join it at `address` with the variables in `env`."""

    address: str
    env: dict[str, str]
    scratch: Path
    ports: list[int]
    memory: int | None = None  # bytes that every node declares
    by_name: dict[str, Node] = field(default_factory=dict)

    @property
    def cluster_address(self) -> str:
        """The address of the head that Ray's own processes use, which is not the loopback address."""
        return f"{ray.util.get_node_ip_address()}:{self.address.rpartition(':')[2]}"

    def __getitem__(self, name: str) -> Node:
        return self.by_name[name]

    def add(self, env: Mapping[str, str] | None = None, **cpus: int) -> None:
        """Starts nodes by name, with so many CPUs each; one after the other, since two at once choose the same socket."""
        for name, count in cpus.items():
            node = self._start(name, cpus=count, env=env or {})
            _wait_until(lambda node=node: "Ray runtime started" in node.log.read_text(), node)

    def _start(self, name: str, *, cpus: int, env: Mapping[str, str]) -> Node:
        node_id = secrets.token_hex(28)
        agent, agent_grpc, metrics, env_agent = (self.ports.pop() for _ in range(4))
        head = (
            *("--head", f"--port={self.address.rpartition(':')[2]}", f"--temp-dir={self.scratch}"),
            "--include-dashboard=false",
        )
        command = [
            *(str(Path(sys.executable).parent / "ray"), "start", "--block", "--node-ip-address=127.0.0.1"),
            *(head if name == "head" else (f"--address={self.address}",)),
            *(
                f"--num-cpus={cpus}",
                "--num-gpus=0",
                "--object-store-memory=100000000",
                "--disable-usage-stats",
            ),
            *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}"),
            *(f"--metrics-export-port={metrics}", f"--runtime-env-agent-port={env_agent}"),
            *(() if self.memory is None else (f"--memory={self.memory}",)),
        ]
        log = self.scratch / f"{name}.log"
        with log.open("w") as file:
            popen = subprocess.Popen(
                command,
                env={**self.env, **env, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        node = self.by_name[name] = Node(name, node_id, popen, log)
        session = self.scratch / "session_latest"
        _wait_until(session.exists, node)
        write_agent_port(session, node_id, agent)
        return node

    def end(self) -> None:
        """Kills all nodes, the head last."""
        for node in reversed(self.by_name.values()):
            node.kill()


@contextlib.contextmanager
def several_nodes(
    env: Mapping[str, str],
    settings: Mapping[str, str] = FAST_FAILURE_DETECTION,
    *,
    memory: int | None = None,
    **cpus: int,
) -> Iterator[Nodes]:
    """Yields a cluster of a head and further nodes, by name, with so many CPUs each."""
    scratch = Path(tempfile.mkdtemp(prefix="nd"))  # a short path: sockets lie in it
    environment_variables = {
        **{key: value for key, value in env.items() if not key.startswith("RAY_")},
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",  # the default of 15 leaves trainings nothing where a test shares a busy machine
        **settings,
    }
    port, *ports = free_ports(1 + 4 * MAX_NODES)
    nodes = Nodes(f"127.0.0.1:{port}", environment_variables, scratch, ports, memory)
    try:
        nodes.add(**cpus)
        yield nodes
    finally:
        nodes.end()
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def other_job_holding_a_cpu(nodes: Nodes) -> Iterator[None]:
    """Runs another job of the cluster during the block, whose actor holds the free CPU."""
    command = [sys.executable, "-c", HOLDING_JOB, nodes.address]
    with subprocess.Popen(command, env=nodes.env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holds\n"
            yield
        finally:
            process.kill()


def _wait_until(condition: Callable[[], bool], node: Node) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not condition():
        assert node.popen.poll() is None, node.log.read_text()
        assert time.monotonic() < deadline, node.log.read_text()
        time.sleep(0.1)
