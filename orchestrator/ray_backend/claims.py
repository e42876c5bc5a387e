"""Claims on the jobs of one trial, as control files: the trial claims a job before it starts it, the driver to take it back.

A trial that takes several short jobs runs them one by one. Should one of them turn out long, the driver takes back those that
have not started. A file can be created only once, so each job has one owner. The first job of a trial needs no claim.
"""

from uuid import uuid4

from pruneyard.orchestrator.coordination.control_files import pruned_file
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import in_words


def claim(folder: RunFolder, trial_id: str, place: int) -> bool:
    """Claims the job at this place of a trial; returns False if the other side has claimed it."""
    file = pruned_file(folder, f"trial-{trial_id}-{place}")
    if isinstance(file, ObjectPath):
        token = uuid4().hex.encode()
        # A put that is repeated because its answer was lost finds its own object.
        return file.put_if(token, tag=None) is not None or file.read_bytes() == token
    with in_words(file):
        try:
            file.open("xb").close()
        except FileExistsError:
            return False
    return True


def take_back(folder: RunFolder, trial_id: str, *, num_jobs: int) -> int:
    """Claims the first job that the trial has not claimed, and returns its place; `num_jobs` if there is none.

    The trial goes in order, so it starts none of the jobs from there on.
    """
    return next((place for place in range(1, num_jobs) if claim(folder, trial_id, place)), num_jobs)
