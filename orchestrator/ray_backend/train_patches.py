"""Adapts Ray Train to what a trial needs: the rendezvous of ranks, the clean-up of resources, and the end of its controller.

Private names of Ray Train are used in this file only; `PRIVATE_NAMES` lists them.
"""

import os
import socket
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch.config import TorchConfig, _set_torch_distributed_env_vars, _TorchBackend
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from pruneyard.cluster.ray_internals import PrivateName

__all__ = [
    "ControllerError",
    "FailureConfig",
    "LoggingConfig",
    "RendezvousConfig",
    "RunConfig",
    "ScalingConfig",
    "TorchTrainer",
    "Trainer",
    "WorkerGroupError",
    "WorkerGroupStartupFailedError",
    "WorkerGroupStartupTimeoutError",
    "WorkerHealthCheckFailedError",
]

_WORKER_GROUP = "ray.train.v2._internal.execution.worker_group.worker_group"

PRIVATE_NAMES = (
    PrivateName("ray.train.torch.config", "TorchConfig.backend_cls"),
    PrivateName("ray.train.torch.config", "_TorchBackend.on_start", ("self", "worker_group", "backend_config")),
    PrivateName("ray.train.torch.config", "_set_torch_distributed_env_vars", ()),
    PrivateName("ray.train.v2._internal.callbacks.placement_group_callback", "PlacementGroupCleanerCallback"),
    PrivateName("ray.train.v2._internal.exceptions", "WorkerGroupStartupFailedError"),
    PrivateName("ray.train.v2._internal.exceptions", "WorkerGroupStartupTimeoutError"),
    PrivateName("ray.train.v2._internal.exceptions", "WorkerHealthCheckFailedError"),
    PrivateName(
        "ray.train.v2._internal.execution.callback",
        "ControllerCallback.after_controller_start",
        ("self", "train_run_context"),
    ),
    PrivateName(_WORKER_GROUP, "WorkerGroup.__len__", ("self",)),
    PrivateName(_WORKER_GROUP, "WorkerGroup.execute", ("self", "fn", "fn_args", "fn_kwargs")),
    PrivateName(_WORKER_GROUP, "WorkerGroup.execute_single", ("self", "rank", "fn", "fn_args", "fn_kwargs")),
    PrivateName(_WORKER_GROUP, "WorkerGroup.execute_single_async", ("self", "rank", "fn", "fn_args", "fn_kwargs")),
    PrivateName("ray.train.v2.api.config", "FailureConfig"),
    PrivateName("ray.train.v2.api.config", "LoggingConfig"),
    PrivateName("ray.train.v2.api.config", "RunConfig"),
    PrivateName("ray.train.v2.api.config", "ScalingConfig"),
    PrivateName("ray.train.v2.api.exceptions", "ControllerError", ("controller_failure",)),
    PrivateName("ray.train.v2.api.exceptions", "WorkerGroupError", ("error_message", "worker_failures")),
    PrivateName("ray.train.v2.torch.torch_trainer", "TorchTrainer._create_default_callbacks", ("self",)),
)

_open_stores: list[Any] = []  # on rank 0: keeps its store alive until the process group holds it


@dataclass
class RendezvousConfig(TorchConfig):
    """The torch configuration of Ray Train with our own rendezvous; device setup and shutdown remain those of Train."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Returns the class that Train uses in its controller."""
        return RendezvousBackend


class RendezvousBackend(_TorchBackend):
    """Opens the store on one address.

    Train's own backend opens it on every interface of rank 0's node, where anybody on the network may write to it.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Initializes the process group on all ranks, which learn the address over Ray's authenticated calls."""
        worker_group.execute(_set_torch_distributed_env_vars)
        timeout = timedelta(seconds=backend_config.timeout_s)
        # Rank 0 opens the store before any rank joins: the others must know its port.
        host, port = worker_group.execute_single(0, _open_store, timeout)
        size = len(worker_group)
        group = {"backend": backend_config.backend, "world_size": size, "timeout": timeout}
        # All at once: no rank returns from joining before the last one has joined.
        joined = [
            worker_group.execute_single_async(rank, _join_process_group, rank, host, port, **group) for rank in range(size)
        ]
        ray.get(joined)


def _open_store(timeout: timedelta) -> tuple[str, int]:
    """Opens the store on rank 0; returns the address by which the cluster knows this node, and the port."""
    host = ray.util.get_node_ip_address()
    # Port 0: the system chooses a free one, so trials on the same node do not collide.
    listening = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    port = listening.getsockname()[1]
    # `detach` gives the socket to the store; otherwise Python would close it together with its own object.
    _open_stores.append(_make_store(host, port, timeout, is_master=True, master_listen_fd=listening.detach()))
    return host, port


def _join_process_group(rank: int, host: str, port: int, *, backend: str, world_size: int, timeout: timedelta) -> None:
    """Joins the process group from any rank; returns once all ranks have joined."""
    store = _open_stores.pop() if rank == 0 else _make_store(host, port, timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def _make_store(host: str, port: int, timeout: timedelta, **server: Any) -> Any:
    """Returns a client of the store, or with `server` the store. Avoids libuv, which before torch 2.8 ignores a given socket."""
    return dist.TCPStore(  # type: ignore[attr-defined]
        host, port, timeout=timeout, wait_for_workers=False, use_libuv=False, **server
    )


class Trainer(TorchTrainer):
    """A `TorchTrainer` whose controller ends together with its trial, and without Train's clean-up of placement groups.

    Train's clean-up asks a dashboard, which may not be there or may belong to another cluster; `cluster.groups` replaces it.
    Ray counts the controller as dead once its trial's process is gone, but idle processes of it were seen to outlive their
    cluster, so the controller exits by itself.

    channel: the actor handle of the trial's channel; it must be set before `fit`.
    """

    channel: Any = None

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        kept = [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]
        return [*kept, _ExitWithTrial(self.channel)]


@dataclass(frozen=True)
class _ExitWithTrial(ControllerCallback):
    """Ends the process of Train's controller once the trial's channel is gone."""

    channel: Any

    def after_controller_start(self, train_run_context: Any) -> None:
        """Waits for the channel in a thread of its own."""

        def watch() -> None:
            try:
                ray.get(self.channel.until_closed.remote())
            except Exception:  # Ray raises different errors if an actor, a node or the cluster is gone
                # `sys.exit` would end this thread only.
                os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
