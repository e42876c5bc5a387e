"""Notes of what this user has submitted and where, so that later commands need only the job's name. Holds no token."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


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


def last_note() -> Note | None:
    """Returns the note of the newest submission from this machine; None if there was none."""
    notes = [path for path in notes_folder().glob("*.json") if not path.name.startswith(".")]
    newest = max(notes, key=lambda path: path.stat().st_mtime_ns, default=None)
    return None if newest is None else read_note(newest.stem)


def read_note(job_id: str) -> Note | None:
    """Returns the note of a job; None for a job that was not submitted from this machine."""
    # The user types the id, so it must not lead out of the folder.
    path = notes_folder() / f"{Path(job_id).name}.json"
    return Note(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
