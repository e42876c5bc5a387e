"""Locates a file that an earlier job wrote, by path or by run, and checks it against a digest of its content.

A path may be a URI of an object store that speaks S3. A copy of the object is then kept in the cache of this machine. boto3 finds
credentials, region and endpoint in the environment.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

from pruneyard.workloads.data.folders import cache_folder
from pruneyard.workloads.fields import FILLED_IN, NEUTRAL_BY_DEFAULT, NOT_IDENTITY, check_runs

_S3_SCHEME = "s3://"


@dataclass(frozen=True, kw_only=True)
class ArtifactFile:
    """The fields of a table that reads a file which an earlier job wrote: by path or by run.

    path: of the file. Its content is part of the run key, its path is not.
    digest: 16 hexadecimal digits over the file's content; if given, a file with other content is refused.
    runs, folder, artifacts: instead of a path, one run as in `pruneyard.workloads.parents.Runs`; its key is part of the run key.
    """

    file_name: ClassVar[str]  # among the artifacts of a run
    reads: ClassVar[str]  # what the file holds, one of those that a kind of job `leaves`
    mismatch: ClassVar[str]  # end of the message for a file with another digest, such as "is another set"

    path: str = field(default="", metadata=NOT_IDENTITY)
    digest: str = ""
    runs: tuple[str, ...] = field(default=(), metadata=NEUTRAL_BY_DEFAULT)
    folder: str = field(default="", metadata=NOT_IDENTITY)
    artifacts: tuple[str, ...] = field(default=(), metadata=FILLED_IN)

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.runs):
            found = f"{self.path!r} and runs is {list(self.runs)}; one of them must be left out"
            raise ValueError(f"path is {found if self.path else 'missing; give path or from'}")
        wanted = f"the path of a {self.file_name}, or from, a stage or folder of finished runs"
        digest = resolve_digest(path=self.path, digest=self.digest, runs=self.runs, mismatch=self.mismatch, wanted=wanted)
        # The dataclass is frozen, but the digest is only known after the file has been read.
        object.__setattr__(self, "digest", digest)

    def locate(self) -> Path:
        """Returns the local path of the file. Raises `ValueError` if it has changed or is not known."""
        return locate_artifact_file(
            path=self.path, digest=self.digest, runs=self.runs, artifacts=self.artifacts, name=self.file_name
        )


def resolve_digest(*, path: str, digest: str, runs: tuple[str, ...], mismatch: str, wanted: str) -> str:
    """Returns the digest that is part of a table's identity: that of the file at `path`, or "" if a run is named.

    mismatch: end of the error message for a file whose content differs from `digest`, such as "is another set".
    wanted: what to give, for the error message of a file that cannot be read.
    Raises `ValueError` if the content differs from `digest`, or the file cannot be read.
    """
    if runs:
        check_runs(runs, num=1)
        if digest:
            raise ValueError(f"digest is {digest} beside runs; it belongs to a path, so it must be left out")
        return ""
    found = content_digest(path, wanted=wanted)
    # An empty digest is filled in by the caller, so that the run key contains the content.
    if digest not in ("", found):
        raise ValueError(f"digest is {digest}; {path} has {found}, so it {mismatch}")
    return found


def locate_artifact_file(
    *, path: str, digest: str, runs: tuple[str, ...], artifacts: Sequence[str], name: str
) -> Path:
    """Returns the local path of the file; `name` is its name among the artifacts of the run.

    Raises `ValueError` if the content at `path` no longer has this digest, or the artifacts of the run are not known.
    """
    if runs:
        if not artifacts:
            raise ValueError(f"runs is {list(runs)}; only a study that contains this run can read its artifacts")
        path = f"{artifacts[0]}/{name}"
    found = content_digest(path)
    if not runs and found != digest:
        raise ValueError(f"{path} has changed: its digest was {digest} and is {found}")
    # The artifacts of a run need no digest: the key of the run is part of the identity.
    return fetch_file(path)


def content_digest(path: str, *, wanted: str = "") -> str:
    """Returns 16 hexadecimal digits over the content of a file. Raises `ValueError` if it cannot be read.

    wanted: what to give, for the error message.
    """
    try:
        return hashlib.sha256(fetch_file(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        rule = f"; give {wanted}" if wanted else ""
        where = "" if Path(path).expanduser().is_absolute() else f" in {Path.cwd()}"
        raise ValueError(f"path is {path!r}, which cannot be read{where}: {error.strerror}{rule}") from error


def fetch_file(name: str) -> Path:
    """Returns the path of a local file, or of a cached copy of the object. Raises `ValueError` if the object cannot be read."""
    return _download_object(name) if name.startswith(_S3_SCHEME) else Path(name).expanduser()


def _download_object(uri: str) -> Path:
    """Returns the cached copy of an object; the ETag is part of its folder's name, so a changed object is downloaded again."""
    if find_spec("boto3") is None:
        raise ValueError(f"{uri}: object stores need boto3; install it with: pip install 'pruneyard[s3]'")
    # An optional dependency: only specs with such a URI need it.
    import boto3
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = uri.removeprefix(_S3_SCHEME).partition("/")
    try:
        client = boto3.session.Session().client("s3")
        tag = client.head_object(Bucket=bucket, Key=key)["ETag"]
        digest = hashlib.sha256(f"{uri}\n{tag}".encode()).hexdigest()[:32]
        cached = cache_folder() / "objects" / digest / Path(key).name
        if not cached.exists():
            cached.parent.mkdir(parents=True, exist_ok=True)
            # Downloaded under another name and moved, so that no other process reads an incomplete file.
            partial = cached.with_name(f".{uuid4().hex}")
            client.download_file(bucket, key, str(partial))
            os.replace(partial, cached)
    except (BotoCoreError, Boto3Error, ClientError) as error:
        raise ValueError(f"{uri}: cannot be read: {error}") from error
    return cached
