"""Gives classes and functions that are handed over from Python a reference, under which a spec can name them."""

import inspect
import logging
from typing import Any

from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.handed_over import HANDED_OVER, HandedOver
from pruneyard.workloads.user_code.object_source import ObjectSource
from pruneyard.workloads.user_code.pickling import pickle_by_value
from pruneyard.workloads.user_code.references import importable_name

logger = logging.getLogger(__name__)

MAX_BYTES = 100 * 2**20
"""The most that an object pickled by value may take: it is sent to every worker process."""


def register(obj: Any) -> str:
    """Returns the reference of a class or function, for a spec.

    What other processes can import becomes `module:Name`. Anything else, such as a class of a notebook or of a script, or a
    function defined in another one, becomes `Name@DIGEST`: it is kept in this process and sent to workers by value. Its digest
    covers its source and what that refers to, see `object_source`, so the same code has the same reference in another process,
    and a study can be continued by handing it over again. `pruneyard resume` alone cannot do that.

        register(torch.nn.Linear)  # 'torch.nn.modules.linear:Linear'

    Raises `UserCodeError` for other objects, and for what cannot be pickled or takes more than 100 MiB.
    """
    if not (inspect.isclass(obj) or inspect.isroutine(obj)):
        raise UserCodeError(f"{obj!r} is a {type(obj).__name__}; a class or a function must be given")
    if (name := importable_name(obj)) is not None:
        return name
    source = ObjectSource.of(obj)
    reference = f"{obj.__name__.strip('<>')}@{source.digest}"
    # Objects with the same digest are equal but for what the digest does not cover; then the newest one counts.
    if reference not in HANDED_OVER or source.unseen:
        pickled = _pickled(obj)
        for unseen, kind in source.unseen.items():
            logger.warning("the run key does not cover the content of %s, a %s that %s uses", unseen, kind, obj.__name__)
        HANDED_OVER[reference] = HandedOver.of(obj, pickled=pickled, modules=tuple(source.modules))
    return reference


def _pickled(obj: Any) -> bytes:
    try:
        pickled = pickle_by_value(obj)
    except Exception as error:  # whatever the objects raise to which the code refers
        raise UserCodeError(
            f"{obj.__name__} cannot be sent to worker processes: {type(error).__name__}: {error}; define it in a module that can "
            "be imported, or create inside it what cannot be pickled"
        ) from error
    if len(pickled) > MAX_BYTES:
        raise UserCodeError(
            f"{obj.__name__} and what it refers to take {len(pickled) / 2**20:.0f} MiB; at most {MAX_BYTES // 2**20} are "
            "allowed: load large data inside it"
        )
    return pickled
