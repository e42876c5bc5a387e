"""A cache of finished runs by run key, which studies share.

It is a folder with the artifacts and records of runs as a results folder has them, so that one can be read as a cache. It cannot
be written as one: a cache deletes what is not a whole finished run, such as the checkpoints of a run that is to be resumed.
An entry counts as a finished run only if its manifest and its record are whole, and it is taken only if all its files are.
Nothing else below the folder is an entry, and none of it is ever deleted.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import pyarrow as pa

from pruneyard.orchestrator.artifacts.reader import read_manifest, verified
from pruneyard.orchestrator.artifacts.writer import MANIFEST, encode_manifest
from pruneyard.orchestrator.errors import UsageError
from pruneyard.reports.attempt import Attempt, attempt_of, decode_record
from pruneyard.reports.data_record import data_records
from pruneyard.reports.durable import Content, add_folder_durably, write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, last_changed, remove_tree, sizes_below
from pruneyard.reports.parquet import DamagedFileError, NewerSchemaError
from pruneyard.reports.records import Status

_RUN_KEY = re.compile(r"[0-9a-f]{16}")


class IncompleteRunError(UsageError):
    """An entry of a cache is not a whole finished run."""


class NewerRunError(UsageError):
    """An entry of a cache was written by a newer version, which alone can judge it."""


@dataclass(frozen=True)
class CachedRun:
    """A finished run in a cache: its manifest and its rows. Its other files are read by `files`."""

    artifact: Location
    manifest: Mapping[str, object]
    attempt: Attempt

    @cached_property
    def data_record(self) -> Mapping[str, str]:
        """The data that the run was computed on; see `data_record.data_records`."""
        run = self.attempt.run
        return data_records([run.data_read], [run.data_fingerprint], [run.parent_key])[0]

    @property
    def parents(self) -> list[str]:
        """Keys of the runs whose artifacts it consumed."""
        return [str(key) for key in _list(self.manifest, "parents")]

    @property
    def file_names(self) -> list[str]:
        """Names of the files of the artifact other than manifest and record."""
        return [str(name) for name in _list(self.manifest, "files")]

    def as_attempt(self, number: int, *, study: str, stage: str | None) -> "CachedRun":
        """Returns the run as an attempt of another number, and of another study."""
        run = replace(self.attempt.run, attempt=number, study=study, stage=stage)
        return replace(self, manifest={**self.manifest, "attempt": number}, attempt=replace(self.attempt, run=run))

    def files(self) -> dict[str, Content]:
        """Returns the contents of all files of the artifact, the manifest last.

        Raises `IncompleteRunError` if one is missing, has no digest in the manifest, or another one.
        """
        digests = self.manifest.get("sha256")
        found: dict[str, Content] = {}
        for name in self.file_names:
            if not isinstance(digests, dict) or name not in digests:
                raise IncompleteRunError(f"{self.artifact / name} cannot be verified: its manifest has no digest of it")
            try:
                found[name] = verified(self.artifact / name, self.manifest, name=name)
            except FileNotFoundError as error:
                raise IncompleteRunError(f"{self.artifact / name} is missing") from error
            except UsageError as error:
                raise IncompleteRunError(str(error)) from error
        return {**found, MANIFEST: encode_manifest(self.manifest)}


class RunCache:
    """The cache in one folder, local or in an object store. An absent folder is an empty cache."""

    def __init__(self, path: Location) -> None:
        self.folder = RunFolder(path)

    def check_may_delete(self) -> None:
        """Raises `UsageError` for the results folder of a study."""
        folder = self.folder
        if any(file.is_file() for file in (folder.plan, folder.spec)) or folder.table("runs").is_dir():
            raise UsageError(
                f"{folder.path} is the results folder of a study, from which no cache may delete; "
                "--cache-from reads finished runs of it"
            )

    def check_is_cache(self) -> None:
        """Raises `UsageError` for a folder into which no finished run was ever added."""
        marker, artifacts = self.folder.cache_marker, self.folder.artifacts
        # Caches of earlier versions have no marker.
        if not marker.is_file() and not any(map(self._has_own_manifest, sorted(self.run_keys()))):
            raise UsageError(
                f"{self.folder.path}: is no cache of finished runs: it has neither the file {marker.name}, which `run --cache` "
                f"writes, nor a finished run, as {artifacts.name}/RUN_KEY/{MANIFEST}"
            )

    def mark(self) -> None:
        """Marks the folder as a cache, by which it is known even when it has no entry."""
        if not self.folder.cache_marker.is_file():
            write_durably(self.folder.cache_marker, json.dumps({"holds": "finished runs of pruneyard"}).encode())

    def _has_own_manifest(self, run_key: str) -> bool:
        try:
            return bool(read_manifest(self.folder.artifact(run_key))["run_key"] == run_key)
        except (UsageError, NotADirectoryError, IsADirectoryError):
            return False

    def run_keys(self) -> frozenset[str]:
        """Returns the run keys of all entries, whole or not; one listing of the folder."""
        return frozenset(filter(_RUN_KEY.fullmatch, self.folder.runs_with_artifacts()))

    def sizes(self, runs: Mapping[str, CachedRun]) -> dict[str, int]:
        """Returns the bytes of the files of runs of this cache, by run key; a missing file counts as 0."""
        found = sizes_below(self.folder.artifacts)
        return {key: sum(found.get(f"{key}/{name}", 0) for name in run.file_names) for key, run in runs.items()}

    def read(self, run_key: str) -> CachedRun | None:
        """Returns the finished run with this key; None if there is no manifest, as for a run that never finished.

        Raises `IncompleteRunError` if manifest or record are damaged, or are those of another run, and `NewerRunError` for an
        entry of a newer version.
        """
        if not self.folder.manifest(run_key).is_file():
            return None
        try:
            return self._read(run_key)
        except IncompleteRunError:
            # A newer version may write other manifests, too.
            for path in self.folder.attempt_records(run_key).values():
                with suppress(DamagedFileError):
                    _decoded(path)
            raise

    def _read(self, run_key: str) -> CachedRun:
        artifact = self.folder.artifact(run_key)
        try:
            manifest = read_manifest(artifact)
        except UsageError as error:
            raise IncompleteRunError(str(error)) from error
        if manifest["run_key"] != run_key:
            raise IncompleteRunError(f"{artifact / MANIFEST} is that of the run {manifest['run_key']}")
        attempt = self._attempt(run_key, manifest.get("attempt"))
        if attempt.run.run_key != run_key or attempt.run.status is not Status.COMPLETED:
            raise IncompleteRunError(f"{artifact}: its record is not that of the completed run {run_key}")
        return CachedRun(artifact, manifest, attempt)

    def _attempt(self, run_key: str, attempt: object) -> Attempt:
        path = self.folder.attempt_record(run_key, attempt if isinstance(attempt, int) else 0)
        try:
            return attempt_of(_decoded(path))
        except FileNotFoundError as error:
            raise IncompleteRunError(f"{path} is missing") from error
        except DamagedFileError as error:
            raise IncompleteRunError(str(error)) from error

    def parents_of_newer(self, run_key: str) -> list[str]:
        """Returns the runs that an entry of a newer version was made from. Raises `UsageError` if it does not tell."""
        advice = "prune with that version, which knows what the run was made from"
        try:
            parents = read_manifest(self.folder.artifact(run_key)).get("parents")
        except UsageError as error:
            raise UsageError(f"{run_key}: was written by a newer version; {advice}: {error}") from error
        if not isinstance(parents, list):
            raise UsageError(f"{run_key}: was written by a newer version, and its manifest has no list of parents; {advice}")
        return [str(key) for key in parents]

    def add(self, run_key: str, source: RunFolder) -> bool:
        """Copies a completed run of a results folder; returns whether it was added.

        An entry that is whole, or of a newer version, stays as it is; one that is not is replaced. Raises `IncompleteRunError`
        if the run in `source` is not whole, as one that an earlier version has written without a record.
        """
        artifact = self.folder.artifact(run_key)
        if artifact.is_dir():
            if not any(self.problems(run_key)):
                return False
            if self.unfinished_since(run_key) is not None:
                self.remove(run_key)
            elif sizes_below(artifact):
                raise IncompleteRunError(f"{artifact} holds files that no cache has written")
        found = RunCache(source.path).read(run_key)
        if found is None:
            raise IncompleteRunError(f"{source.artifact(run_key)} has no {MANIFEST}")
        files = found.files()
        record = source.attempt_record(run_key, found.attempt.run.attempt)
        # Before the manifest: where that exists, all other files do.
        return add_folder_durably(self.folder.artifacts, run_key, {record.name: record.read_bytes(), **files})

    def unfinished_since(self, run_key: str) -> datetime | None:
        """Returns when an entry that is not whole last changed; None for a folder that no cache has written.

        A cache writes manifests and records, and never checkpoints: they are of a run that is to be resumed.
        """
        artifact = self.folder.artifact(run_key)
        records = {path.name for path in self.folder.attempt_records(run_key).values()}
        names = sizes_below(artifact)
        is_ours = not names.keys().isdisjoint({MANIFEST, *records})
        checkpoints = f"{self.folder.checkpoints(run_key).name}/"
        return last_changed(artifact) if is_ours and not any(name.startswith(checkpoints) for name in names) else None

    def remove(self, run_key: str) -> None:
        """Deletes an entry, its manifest first: what is left if this is killed counts as no run.

        Its records go last: what is left is still known as an entry by them.
        """
        artifact = self.folder.artifact(run_key)
        self.folder.manifest(run_key).unlink(missing_ok=True)
        records = set(self.folder.attempt_records(run_key).values())
        for path in (artifact / name for name in sizes_below(artifact)):
            if path not in records:
                path.unlink(missing_ok=True)
        remove_tree(artifact)

    def problems(self, run_key: str) -> Iterator[str]:
        """Yields what is wrong with an entry, after reading all its files."""
        try:
            found = self.read(run_key)
            if found is None:
                yield f"{self.folder.artifact(run_key)} has no {MANIFEST}: it is no finished run"
            else:
                found.files()
        except IncompleteRunError as error:
            yield str(error)
        except NewerRunError:  # this version cannot tell
            return


def _decoded(record: Location) -> dict[str, pa.Table]:
    try:
        return decode_record(record, record.read_bytes())
    except NewerSchemaError as error:
        raise NewerRunError(str(error)) from error


def _list(manifest: Mapping[str, object], name: str) -> list[object]:
    found = manifest.get(name)
    return found if isinstance(found, list) else []
