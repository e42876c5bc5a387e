"""How the ranks of Ray Train meet: in a store of torch that rank 0 keeps at the address of its node, and at no other one."""

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch.config import TorchConfig, _set_torch_distributed_env_vars, _TorchBackend

_open_stores: list[Any] = []  # by rank 0: its store, from when it is open until the process group holds it


@dataclass
class RendezvousConfig(TorchConfig):
    """Torch's process group, made by `RendezvousBackend`; all else is as Train has it, the devices and the end among it."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What Train calls in its controller."""
        return RendezvousBackend


class RendezvousBackend(_TorchBackend):
    """Train's own opens a store on every interface that rank 0's node has, and anybody may write there."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Ranks learn where the store is by calls of Ray, which asks for its token."""
        worker_group.execute(_set_torch_distributed_env_vars)
        within = timedelta(seconds=backend_config.timeout_s)
        host, port = worker_group.execute_single(0, _open_store, within)
        size = len(worker_group)
        group = {"backend": backend_config.backend, "world_size": size, "timeout": within}
        met = [worker_group.execute_single_async(rank, _join_process_group, rank, host, port, **group) for rank in range(size)]
        ray.get(met)


def _open_store(within: timedelta) -> tuple[str, int]:
    """On rank 0: the store, at the address by which the cluster knows this node."""
    host = ray.util.get_node_ip_address()
    listening = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    port = listening.getsockname()[1]
    _open_stores.append(_make_store(host, port, within, is_master=True, master_listen_fd=listening.detach()))
    return host, port


def _join_process_group(rank: int, host: str, port: int, *, backend: str, world_size: int, timeout: timedelta) -> None:
    """On every rank: returns when all are there."""
    store = _open_stores.pop() if rank == 0 else _make_store(host, port, timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def _make_store(host: str, port: int, within: timedelta, **server: Any) -> Any:
    """Without libuv: the one of torch before 2.8 does not serve a socket that it is given."""
    return dist.TCPStore(  # type: ignore[attr-defined]
        host, port, timeout=within, wait_for_workers=False, use_libuv=False, **server
    )
