"""The interface of this machine alone, by the name under which libraries of ranks are told to use it."""

import socket

_NAMES = ("lo", "lo0")  # Linux, macOS


def loopback_environment() -> dict[str, str]:
    """Environment variables that keep gloo and NCCL off the network; they would choose another interface."""
    names = [name for _, name in socket.if_nameindex() if name in _NAMES]
    return {variable: name for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") for name in names}
