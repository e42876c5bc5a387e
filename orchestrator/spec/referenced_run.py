"""Describes a run that a reference may name, before it is chosen."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar


class Run(Protocol):
    """A run that a reference may name."""

    @property
    def run_key(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]: ...


AnyRun = TypeVar("AnyRun", bound=Run)
