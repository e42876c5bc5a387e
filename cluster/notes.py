"""Notes of what this user has submitted and where, so that later commands need only the job's name. Holds no token."""

import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Note:
    """The note of one submission."""

    job_id: str
    address: str
    study: str
    out: str  # as the cluster sees it


def notes_folder() -> Path:
    """Returns the folder of the notes in the user's state directory (XDG)."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "pruneyard" / "jobs"


def write_note(note: Note) -> None:
    """Writes a note that only this user can read; written to a temporary file and moved."""
    folder = notes_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = folder / f".{note.job_id}.{os.getpid()}"
    # Private before anything is written: write_text alone would create the file by the umask.
    aside.touch(mode=0o600)
    aside.write_text(json.dumps(asdict(note), indent=1), encoding="utf-8")
    aside.replace(folder / f"{note.job_id}.json")


def last_note(*, besides: str = "") -> Note | None:
    """Returns the newest readable note of a submission from this machine; None if there is none.

    besides: a job whose note is not looked at.
    """
    paths = [path for path in notes_folder().glob("*.json") if not path.name.startswith(".") and path.stem != besides]
    newest_first = sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return next(filter(None, map(_read, newest_first)), None)


def read_note(job_id: str) -> Note | None:
    """Returns the note of a job; None for a job that was not submitted from this machine, or if it cannot be read."""
    # The user types the id, so it must not lead out of the folder.
    path = notes_folder() / f"{Path(job_id).name}.json"
    return _read(path) if path.is_file() else None


def _read(path: Path) -> Note | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        texts = {field.name: told[field.name] for field in fields(Note)}
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("its values must be texts")
        return Note(**texts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("skipping %s, which cannot be read as the note of a job: %s: %s", path, type(error).__name__, error)
        return None
