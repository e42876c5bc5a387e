"""The address of a job server and the token it asks for, which is never shown."""

import ipaddress
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pruneyard.cluster.profile import TOKEN_FILE

DEFAULT_PORT = 8265
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Access:
    """The address of a job server and a token. Raises `ValueError` for an invalid address, or an unsafe one."""

    address: str
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            form = f"the URL of a cluster's job server, as in http://127.0.0.1:{DEFAULT_PORT}"
            raise ValueError(f"{self.shown} is no address to submit to; give {form}")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                f"{self.shown}: an address must not hold a secret; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
            )
        if not _has_valid_port(self.address):
            rule = f"the port must be a number from 1 to 65535, as in http://127.0.0.1:{DEFAULT_PORT}"
            raise ValueError(f"{self.shown} is no address to submit to; {rule}")
        if not self.token and not self.is_loopback:
            raise ValueError(
                f"{self.shown}: not without a token, since whoever reaches such a cluster runs code on it. Set "
                "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file of it; for a cluster that asks for none, "
                "submit through a tunnel to 127.0.0.1"
            )

    @property
    def shown(self) -> str:
        """Returns the address without anything that may be secret."""
        parts = urlsplit(self.address)
        # User and password stand before the last `@`; the password may contain one itself.
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else self.address

    @property
    def is_loopback(self) -> bool:
        """Returns whether the address is on this machine, as a tunnel is."""
        host = urlsplit(self.address).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            # Of all names, only this one is known without DNS to be this machine.
            return host == "localhost"

    @property
    def sends_token_unencrypted(self) -> bool:
        """Returns whether the token is sent unencrypted over the network."""
        return bool(self.token) and self.address.startswith("http:") and not self.is_loopback

    @property
    def mode(self) -> str:
        """Returns `with a token` or `without a token`, for messages."""
        return "with a token" if self.token else "without a token"

    def check_reachable(self) -> None:
        """Raises `ConnectionError` at once if nothing listens there; Ray's client would retry for long."""
        parts = urlsplit(self.address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname, port), timeout=CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise ConnectionError(f"no job server answers at {self.shown}: {error}") from error


def _has_valid_port(address: str) -> bool:
    try:
        return urlsplit(address).port != 0
    except ValueError:  # raised only here, when the port is asked for
        return False


def access_to(address: str) -> Access:
    """Returns the access with the user's token, found as Ray does: the environment, a file named there, Ray's own file."""
    # urlsplit would take the host of `localhost:8265` for a scheme.
    whole = address if "://" in address else f"http://{address}"
    return Access(address=whole.rstrip("/"), token=_token())


def _token() -> str:
    # The user switched tokens off: none is sent, even if a file holds one.
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return ""
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return given
    named = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    path = Path(named or TOKEN_FILE).expanduser()
    if not path.is_file():
        # A file that the user names must exist; Ray's default file is absent where no cluster needs a token.
        if named:
            raise ValueError(f"RAY_AUTH_TOKEN_PATH names {named}, which is no file")
        return ""
    return path.read_text(encoding="utf-8").strip()
