"""Paths in a results folder; the only module that knows file names."""

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pruneyard.reports.location import Location, located
from pruneyard.reports.objects import ObjectPath

_PROGRESS_IMAGE = re.compile(r"images-(\d+)\.png")
_RECORD = re.compile(r"record-(\d+)\.json")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class RunFolder:
    """One results folder, local or in an object store. It is created when something is written into it."""

    path: Location

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", located(self.path))

    @property
    def spec(self) -> Location:
        """The resolved spec as run."""
        return self.path / "spec.yaml"

    @property
    def plan(self) -> Location:
        """The plan of the newest spec: a JSON object, `{"run_keys": [...]}`."""
        return self.path / "plan.json"

    @property
    def finished(self) -> Location:
        """The file that remembers the output of a finished study; hidden, since it is derived from the results."""
        return self.path / ".finished.json"

    @property
    def cache_marker(self) -> Location:
        """The file that marks a folder as a cache of finished runs, in place of a study's results."""
        return self.path / ".pruneyard-cache.json"

    @property
    def report(self) -> Location:
        """The HTML page."""
        return self.path / "report.html"

    @property
    def scratch(self) -> Path:
        """A local folder for the scheduler's temporary files: in the results folder, or a temporary one for object stores."""
        if isinstance(self.path, ObjectPath):
            # A URI is no file name. Several users share the temporary folder, hence the user id.
            digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:16]
            return Path(tempfile.gettempdir()) / f"pruneyard-{os.getuid()}" / digest
        return self.path.resolve() / ".scheduler"

    def table(self, name: str) -> Location:
        """Returns the folder of one table's Parquet files: `runs`, `metrics` or `curves`."""
        return self.path / "results" / name

    def files_of_table(self, name: str) -> list[Location]:
        """Returns the Parquet files of a table, sorted by name."""
        # Hidden files are unfinished writes. Sorted as text, so that the order is the same in an object store.
        return sorted(self.table(name).glob("[!.]*.parquet"), key=str)

    @property
    def artifacts(self) -> Location:
        """The folder with one subfolder per run; hidden subfolders hold unfinished writes."""
        return self.path / "artifacts"

    @property
    def handed_over_data(self) -> Location:
        """The folder of arrays that were handed over from Python, in files named by a digest of their content."""
        return self.path / "data"

    def artifact(self, run_key: str) -> Location:
        """Returns the folder of one run's artifacts."""
        return self.artifacts / plain_name(run_key)

    def manifest(self, run_key: str) -> Location:
        """Returns the file that describes the artifacts of a completed run; it is written after all others."""
        return self.artifact(run_key) / "manifest.json"

    def attempt_record(self, run_key: str, attempt: int) -> Location:
        """Returns the file with all rows of one attempt, from which the tables can be rebuilt."""
        return self.artifact(run_key) / f"record-{attempt}.json"

    def attempt_records(self, run_key: str) -> dict[str, Location]:
        """Returns the existing record files of one run, by unit: `<run_key>-<attempt>`."""
        found = {path: _RECORD.fullmatch(path.name) for path in self.artifact(run_key).glob("record-*.json")}
        return {f"{run_key}-{match[1]}": path for path, match in found.items() if match}

    def runs_with_artifacts(self) -> list[str]:
        """Returns the names of the artifact folders, which are run keys, sorted."""
        if not self.artifacts.is_dir():
            return []
        return sorted(path.name for path in self.artifacts.iterdir() if _PLAIN_NAME.fullmatch(path.name))

    def predictions(self, run_key: str) -> Location:
        """Returns the file with the final network's logits."""
        return self.artifact(run_key) / "predictions.parquet"

    def picture(self, run_key: str) -> Location:
        """Returns the image file of the run's synthetic set."""
        return self.artifact(run_key) / "synthetic_set.png"

    def pictures_on_the_way(self, run_key: str) -> dict[int, Location]:
        """Returns image files of the synthetic set during distillation, by iteration; empty if the run has none."""
        found = {path: _PROGRESS_IMAGE.fullmatch(path.name) for path in self.artifact(run_key).glob("images-*.png")}
        steps = {int(match[1]): path for path, match in found.items() if match}
        return dict(sorted(steps.items()))

    def checkpoints(self, run_key: str) -> Location:
        """Returns the folder of one run's checkpoints."""
        return self.artifact(run_key) / "checkpoints"


def relative_artifact(run_key: str) -> str:
    """Returns the folder of one run's artifacts relative to the results folder, which may be moved."""
    return f"artifacts/{plain_name(run_key)}"


def plain_name(name: str) -> str:
    """Returns the name unchanged if it is a portable file name. Raises `ValueError` otherwise."""
    if not _PLAIN_NAME.fullmatch(name):
        raise ValueError(
            f"run_key is {name!r}; it may have letters, digits, '_', '-' and '.', and must not start with '-' or '.'"
        )
    return name
