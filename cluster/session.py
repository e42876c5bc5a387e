"""A Ray session for one study: a cluster started on this machine, or joined by its address; never one found by chance."""

import logging
import os
import re
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import joblib
import ray

from pruneyard.cluster import capacity
from pruneyard.cluster.loopback import loopback_environment
from pruneyard.cluster.pulse import CONNECT_TIMEOUT_S, HeadMonitor, check_grpc, uses_tls
from pruneyard.cluster.ray_internals import (
    AuthenticationTokenLoader,
    GcsClient,
    ray_constants,
    raylet_socket,
    reread_environment,
    services,
)
from pruneyard.cluster.ray_processes import processes_of_node, watch_processes

LOCAL, AUTO = "local", "auto"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
TOO_LONG = "AF_UNIX path length"
TOO_SLOW = "The current node timed out during startup"

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a trial without GPUs leaves the device list as it is
    "RAY_AIR_NEW_OUTPUT": "0",  # the other output engine prints tables even when told to be silent
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative data paths keep their meaning
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the records are ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # stopping is ours too
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a report without a metric must not end a study
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is never read again
    "TUNE_RESULT_BUFFER_LENGTH": "1",  # a trial that is to stop must learn it before its next step
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True, kw_only=True)
class Session:
    """The resources of the joined cluster. nodes: CPUs and GPUs of each live node; memory: the bytes of the same nodes.

    is_own: whether the cluster was started for this session. Its processes have then inherited the environment of this one.
    """

    address: str
    is_own: bool
    nodes: tuple[tuple[float, float], ...]
    memory: tuple[int, ...]
    head: HeadMonitor

    @property
    def num_nodes(self) -> int:
        """Returns the number of live nodes."""
        return len(self.nodes)

    @property
    def cpus(self) -> float:
        """Returns the CPUs of all nodes."""
        return sum(cpus for cpus, _ in self.nodes)

    @property
    def gpus(self) -> float:
        """Returns the GPUs of all nodes."""
        return sum(gpus for _, gpus in self.nodes)


@contextmanager
def session(
    address: str = LOCAL, *, num_cpus: int | None = None, abandon: Callable[[str], None] | None = None
) -> Iterator[Session]:
    """Connects to a Ray cluster inside the block.

    A cluster started here listens on loopback only and requires a token made for it alone. A process that has called `ray.init`
    itself stays in its cluster, before, inside and after the block. Raises `ConnectionError` if `address` cannot be reached or
    refuses us, and if this process is in another cluster.

    abandon: called in another thread, with a message, if the cluster is lost while the block runs; it ends the process. Ray's
        client would do that without a word: a tenth of a second after its raylet died, or a minute after the head did.
    """
    with ExitStack() as settings:
        settings.enter_context(_environment(_ENVIRONMENT))
        is_joined = ray.is_initialized()
        if not is_joined:
            settings.enter_context(_environment(_authentication(address)))
            settings.enter_context(_loopback(address))
            reread_environment()
        with ExitStack() as watching:
            watch, is_own = None, address == LOCAL and not is_joined
            if abandon is not None and is_own:
                watch = watching.enter_context(watch_processes(partial(processes_of_node, None), abandon))
            own = _joined_before(address) if is_joined else _connect(address, num_cpus)
            try:
                offered = capacity.node_resources()
                nodes = tuple((float(has.get("CPU", 0)), float(has.get("GPU", 0))) for has in offered)
                memory = tuple(int(has.get("memory", 0)) for has in offered)
                if abandon is not None and watch is None:
                    watch = watching.enter_context(watch_processes(partial(processes_of_node, raylet_socket()), abandon))
                if watch is not None:
                    watch.set_started()
                with HeadMonitor(own, abandon) as head:
                    yield Session(address=own, is_own=is_own, nodes=nodes, memory=memory, head=head)
            finally:
                # The watch first, because a shutdown ends the processes.
                watching.close()
                if not is_joined:
                    ray.shutdown()


def _joined_before(address: str) -> str:
    """Returns the address of the cluster that this process is in. Raises `ConnectionError` if another one is asked for."""
    if raylet_socket() is None:
        raise ConnectionError("this process is connected by Ray Client, which runs no study; call ray.shutdown() first")
    own = str(ray.get_runtime_context().gcs_address)
    # Ray replaces an address of loopback by one that other machines reach.
    here = {f"{host}:{own.rpartition(':')[2]}" for host in LOOPBACK}
    if address not in {LOCAL, AUTO, own, *here}:
        raise ConnectionError(
            f"this process is in the Ray cluster at {own} already; leave out the address to run there, or call ray.shutdown() "
            f"before you join {address}"
        )
    return own


def _connect(address: str, num_cpus: int | None) -> str:
    """Starts or joins the cluster; returns the address of its head. Raises `ConnectionError`."""
    cpus = num_cpus or joblib.cpu_count()  # by affinity and cgroup: Ray counts the cores of the machine
    started_here: dict[str, Any] = {"include_dashboard": False, "num_cpus": cpus, "_node_ip_address": "127.0.0.1"}
    asked_for = address
    try:
        if address == AUTO:
            address = _found()
        _check_reachable(address)
        with _hangups_blocked():
            context = ray.init(
                address=address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **(started_here if address == LOCAL else {}),
            )
    except ray.exceptions.AuthenticationError as error:
        raise ConnectionError(
            f"no token, or a wrong one, for the Ray cluster at {address}: set RAY_AUTH_TOKEN to the one it "
            "was started with, or RAY_AUTH_TOKEN_PATH to a file of it, or RAY_AUTH_MODE=disabled if it asks for none"
        ) from error
    # OverflowError: a port with more digits than the system takes.
    except (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RpcError) as error:
        if TOO_LONG in str(error):
            raise ConnectionError(
                f"Ray cannot start: the path of its sockets is too long for the system ({error}); set RAY_TMPDIR to a short "
                "folder, such as /tmp, or go without Ray: --local"
            ) from error
        raise ConnectionError(f"no Ray cluster answers at {_named(asked_for, address)}: {error}") from error
    except Exception as error:  # Ray has no class for it
        if TOO_SLOW not in str(error):
            raise
        raise ConnectionError(
            "Ray did not start within its own limits (15 s for a node's agent, and nothing can set it), as on a "
            "machine with much other work; try again, or go without Ray: --local"
        ) from error
    # The address that was joined: `local` has none before Ray has started.
    return str(context.address_info["gcs_address"])  # type: ignore[attr-defined]


@contextmanager
def _hangups_blocked() -> Iterator[None]:
    """Blocks SIGHUP inside the block, and for ever in processes that it starts.

    A closed terminal sends it to all processes of a command, but only the driver is to act on it: it stops its trials itself.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _named(asked_for: str, address: str) -> str:
    return address if address == asked_for or asked_for != AUTO else f"{address}, found on this machine"


def _check_reachable(address: str) -> None:
    """Raises at once if nothing answers or the token is wrong; Ray retries a dead address for minutes, a wrong token for 30 s."""
    match = re.fullmatch(r"(ray://)?\[?([^/]+?)\]?:(\d+)", address)
    if match is None:
        return  # `local`, `auto`, or a form that Ray judges itself
    with socket.create_connection((match[2], int(match[3])), timeout=CONNECT_TIMEOUT_S) as connection:
        if not uses_tls():
            check_grpc(connection)
    # A client of the GCS raises at once for a wrong token. `ray://` names the server of Ray Client instead.
    if not match[1] and (os.environ["RAY_AUTH_MODE"] != "token" or AuthenticationTokenLoader.instance().has_token()):
        GcsClient(address=address)


def _found() -> str:
    """Returns the address that `auto` stands for, so that it can be checked first; Ray would retry it for a minute.

    Follows Ray: $RAY_ADDRESS, else the only cluster of this machine, else the one that `ray start` started last.
    """
    named = os.environ.get(ray_constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE, "")
    if named not in ("", AUTO, LOCAL):
        return named
    # Ray caches the answer for the life of the process, and clusters come and go.
    services.find_gcs_addresses.cache_clear()  # type: ignore[attr-defined]
    running = services.find_gcs_addresses()
    latest = services.find_bootstrap_address(None)
    if len(running) == 1:
        return str(*running)
    if latest in running:
        return str(latest)
    if not running:
        raise ConnectionError("none runs on this machine; give --address HOST:PORT, or leave it out to start one")
    raise ConnectionError(f"several run on this machine; give --address, one of {', '.join(sorted(running))}")


@contextmanager
def _loopback(address: str) -> Iterator[None]:
    """Keeps a cluster started here off the network.

    Ray replaces 127.0.0.1 by an address that others can reach and then listens on all interfaces, unless it believes that the
    operating system cannot form clusters. The driver reads that from a constant, Ray's other processes from the environment.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    if address == LOCAL:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        own = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0", **loopback_environment()}
        with _environment(own if address == LOCAL else {}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _authentication(address: str) -> dict[str, str]:
    """Returns the authentication settings: token mode unless set otherwise, with a fresh token for a cluster started here."""
    fresh = {"RAY_AUTH_TOKEN": secrets.token_hex(32)} if address == LOCAL else {}
    return {"RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token"), **fresh}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables inside the block; Ray's processes inherit them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
