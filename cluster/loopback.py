"""Keeps the communication of ranks on the loopback interface."""

import socket

_NAMES = ("lo", "lo0")  # Linux, macOS


def loopback_environment() -> dict[str, str]:
    """Returns environment variables that make Gloo and NCCL use loopback; by themselves they choose another interface."""
    names = [name for _, name in socket.if_nameindex() if name in _NAMES]
    return {variable: name for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") for name in names}
