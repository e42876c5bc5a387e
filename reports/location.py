"""Resolves the name of a file or folder to a local path or a place in an object store."""

import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pruneyard.reports.objects import SCHEME, ObjectPath

Location = Path | ObjectPath

SCHEMES = (SCHEME, "file")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


def located(text: str | os.PathLike[str] | ObjectPath) -> Location:
    """Resolves `s3://BUCKET/FOLDER`, `file:///FOLDER` or a path. Raises `ValueError` for other schemes or a missing extra."""
    if isinstance(text, ObjectPath):
        return text
    if isinstance(text, Path):
        # pathlib merges the two slashes of a URI.
        if text.parts and text.parts[0] in (f"{SCHEME}:", "file:"):
            raise ValueError(f"{text}: a path has lost a slash of its URI; give the URI as text")
        return text.expanduser()
    name = os.fspath(text)
    scheme, mark, _ = name.partition("://")
    if not mark or not _SCHEME.fullmatch(scheme):
        return Path(name).expanduser()
    if scheme == SCHEME:
        return ObjectPath.of(name)
    if scheme == "file":
        split = urlsplit(name)
        # file://localhost/FOLDER is another way to write a folder of this machine.
        if split.netloc not in ("", "localhost") or not split.path:
            raise ValueError(f"{name}: names no folder of this machine; it must be file:///FOLDER")
        return Path(unquote(split.path))
    raise ValueError(
        f"{name}: {scheme}:// is no storage that pruneyard knows; give a path, file:// or {SCHEME}://"
    )


def sizes_below(folder: Location) -> dict[str, int]:
    """Returns the sizes in bytes of all files below a folder, by their names relative to it; in a store by one listing."""
    if isinstance(folder, ObjectPath):
        return folder.sizes_below()
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def last_changed(folder: Location) -> datetime | None:
    """Returns when a folder, or anything below it, last changed; None for a folder that does not exist."""
    if isinstance(folder, ObjectPath):
        return folder.last_changed()
    times = [path.stat().st_mtime for path in (folder, *folder.rglob("*")) if path.exists()]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def remove_tree(folder: Location) -> None:
    """Deletes a folder with its content, or as much of it as can be deleted."""
    if isinstance(folder, ObjectPath):
        folder.remove_tree()
    else:
        shutil.rmtree(folder, ignore_errors=True)
