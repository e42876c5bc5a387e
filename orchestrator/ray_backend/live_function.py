"""Lets Tune call a function of the driver by name: the pickled copy that it calls otherwise knows nothing of later trials.

Trial processes import this file too, with the class that Tune sends them, so it imports nothing that takes time.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

Config = Mapping[str, Any]

_FUNCTIONS: dict[str, Callable[[Config], Any]] = {}


@contextmanager
def live(function: Callable[[Config], Any]) -> Iterator[Callable[[Config], Any]]:
    """Yields a function that can be pickled and calls `function`; it works in this process and inside the block only."""
    name = uuid4().hex
    _FUNCTIONS[name] = function
    try:
        yield partial(_call, name)
    finally:
        del _FUNCTIONS[name]


def _call(name: str, config: Config) -> Any:
    return _FUNCTIONS[name](config)
