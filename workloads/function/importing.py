"""Imports a function of the user within a time limit, and says where an import stands that does not end."""

import logging
import sys
import threading
import traceback
from queue import Empty, SimpleQueue
from typing import Any

from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.handed_over import is_handed_over
from pruneyard.workloads.user_code.references import module_and_attribute, resolve

logger = logging.getLogger(__name__)

WARN_AFTER_S = 10.0
TIMEOUT_S = 300.0

_unfinished: dict[str, threading.Thread] = {}
"""The thread that still imports each module after the time limit. It holds the module's lock, for which others would wait."""


def import_function(reference: str) -> Any:
    """Returns the function that a reference names.

    Raises `UserCodeError` if there is none, if its module cannot be imported, or if the import has not ended after `TIMEOUT_S`.
    """
    module = "" if is_handed_over(reference) else module_and_attribute(reference)[0]
    if (thread := _unfinished.get(module)) is not None and thread.is_alive():
        where = _position(thread)
        raise UserCodeError(f"{reference!r} cannot be imported: an earlier import has not ended; it stands at {where}")
    if not module or module in sys.modules:
        return _checked(reference, resolve(reference))
    results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            results.put((resolve(reference), None))
        except BaseException as error:
            results.put((None, error))

    # A daemon, so that this process can end although the import has not.
    thread = threading.Thread(target=work, name=f"import of {reference}", daemon=True)
    _unfinished[module] = thread
    thread.start()
    found, error = _wait(results, thread, reference)
    del _unfinished[module]
    if error is not None:
        raise error
    return _checked(reference, found)


def _wait(
    results: SimpleQueue[tuple[Any, BaseException | None]], thread: threading.Thread, reference: str
) -> tuple[Any, BaseException | None]:
    for seconds, is_last in (
        (min(WARN_AFTER_S, TIMEOUT_S), TIMEOUT_S <= WARN_AFTER_S),
        (TIMEOUT_S - WARN_AFTER_S, True),
    ):
        try:
            return results.get(timeout=seconds)
        except Empty:
            where = _position(thread)
            if is_last:
                raise UserCodeError(
                    f"{reference!r} cannot be imported: the import has not ended after {TIMEOUT_S:g} s; it stands at {where}"
                ) from None
            logger.warning(
                "the import of %s has taken %g s so far; it stands at %s", reference, WARN_AFTER_S, where
            )
    raise AssertionError("the last wait returns or raises")


def _position(thread: threading.Thread) -> str:
    """Returns file and line of the innermost frame of a thread that does not belong to the import system."""
    frame = sys._current_frames().get(thread.ident or 0)
    lines = [entry for entry in traceback.extract_stack(frame) if not entry.filename.startswith("<frozen ")]
    return (
        f"{lines[-1].filename}:{lines[-1].lineno}, in {lines[-1].name}"
        if frame is not None and lines
        else "an unknown place"
    )


def _checked(reference: str, found: Any) -> Any:
    if not callable(found):
        raise UserCodeError(f"{reference!r} is a {type(found).__name__}; it must be a function")
    return found
