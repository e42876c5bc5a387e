"""Pickles objects by value for other processes of the same study. Nothing that was read from a file is ever unpickled."""

from typing import Any

import cloudpickle


def pickle_by_value(obj: Any) -> bytes:
    """Returns the pickled object; what cannot be imported, such as a class of a notebook, is pickled by value."""
    content: bytes = cloudpickle.dumps(obj)
    return content


def unpickle(content: bytes) -> Any:
    """Returns the object. Executes code, so only for bytes that a process of the same study has sent."""
    return cloudpickle.loads(content)
