"""Where things lie in the folder that a run leaves; the only place that knows file names."""

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pruneyard.reports.location import Location, located
from pruneyard.reports.objects import ObjectPath

_ON_THE_WAY = re.compile(r"images-(\d+)\.png")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class RunFolder:
    """One folder of results, here or in an object store. Nothing is created before something is written into it."""

    path: Location

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", located(self.path))

    @property
    def spec(self) -> Location:
        """The resolved spec as run."""
        return self.path / "spec.yaml"

    @property
    def plan(self) -> Location:
        """What the newest spec planned: a JSON object, `{"run_keys": [...]}`."""
        return self.path / "plan.json"

    @property
    def report(self) -> Location:
        """The HTML page."""
        return self.path / "report.html"

    @property
    def scratch(self) -> Path:
        """Where a scheduler may write what nobody reads later: beside the results, or on this machine with an object store."""
        if isinstance(self.path, ObjectPath):
            digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:16]
            return Path(tempfile.gettempdir()) / f"pruneyard-{os.getuid()}" / digest
        return self.path.resolve() / ".scheduler"

    def table(self, name: str) -> Location:
        """The folder of one table's Parquet files: `runs`, `metrics` or `curves`."""
        return self.path / "results" / name

    def files_of_table(self, name: str) -> list[Location]:
        """Its Parquet files, by name."""
        return sorted(self.table(name).glob("[!.]*.parquet"), key=str)

    @property
    def artifacts(self) -> Location:
        """The folder of the folders of all runs; in hidden ones beside them lies what is being written."""
        return self.path / "artifacts"

    def artifact(self, run_key: str) -> Location:
        """The folder of what one run leaves besides its rows."""
        return self.artifacts / plain_name(run_key)

    def predictions(self, run_key: str) -> Location:
        """The final network's logits."""
        return self.artifact(run_key) / "predictions.parquet"

    def picture(self, run_key: str) -> Location:
        """The images of a synthetic set, where the run made one."""
        return self.artifact(run_key) / "synthetic_set.png"

    def pictures_on_the_way(self, run_key: str) -> dict[int, Location]:
        """Small pictures of a synthetic set, by the iterations that were done; none where the run left none."""
        found = {path: _ON_THE_WAY.fullmatch(path.name) for path in self.artifact(run_key).glob("images-*.png")}
        steps = {int(match[1]): path for path, match in found.items() if match}
        return dict(sorted(steps.items()))

    def checkpoints(self, run_key: str) -> Location:
        """The folder of one run's checkpoints."""
        return self.artifact(run_key) / "checkpoints"


def plain_name(name: str) -> str:
    """The name itself if it can stand as one file name anywhere; raises `ValueError` otherwise."""
    if not _PLAIN_NAME.fullmatch(name):
        raise ValueError(
            f"run_key is {name!r}; it may hold letters, digits, '_', '-', '.' and starts with none of '-.'"
        )
    return name
