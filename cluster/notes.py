"""What this user has submitted and where, so that a job's name is enough to ask for it. Holds no token."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Note:
    """One submission."""

    job_id: str
    address: str
    study: str
    out: str  # as the cluster sees it


def notes_folder() -> Path:
    """Where programs of this user keep what they may lose."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "pruneyard" / "jobs"


def write_note(note: Note) -> None:
    """For this user's eyes only; written aside and moved."""
    folder = notes_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = folder / f".{note.job_id}.{os.getpid()}"
    aside.touch(mode=0o600)
    aside.write_text(json.dumps(asdict(note), indent=1), encoding="utf-8")
    aside.replace(folder / f"{note.job_id}.json")


def read_note(job_id: str) -> Note | None:
    """None for a job that was not submitted from here."""
    path = notes_folder() / f"{Path(job_id).name}.json"
    return Note(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
