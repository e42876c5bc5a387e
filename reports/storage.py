"""Storage errors with a message for the user: the place, the problem and the remedy."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_AGAIN = "then give the same command again: what is finished is kept"
_MAKE_ROOM = f"free some space there, {_AGAIN}"
_LET_WRITE = f"make it writable for this user, {_AGAIN}, or choose another folder"
_IN_THE_WAY = "a file stands where a folder must; choose another folder"
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EROFS: _LET_WRITE,
    errno.EACCES: _LET_WRITE,
    errno.EPERM: _LET_WRITE,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
}


class StorageError(OSError):
    """The results storage cannot be used. The message is for the user."""


@contextmanager
def in_words(place: object) -> Iterator[None]:
    """Converts an `OSError` about the file or folder `place` to a `StorageError`."""
    try:
        yield
    # Already worded by a deeper block; it is an OSError, too.
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, f"fix the storage, {_AGAIN}")
        raise StorageError(f"{place}: {reason[:1].lower()}{reason[1:]}; {remedy}") from error
