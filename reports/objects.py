"""Files and folders of an S3-compatible object store, with the methods of `pathlib.Path` that results need.

A folder is only a prefix of names. A put is atomic and objects cannot be moved, so every object is written once, with its final
content. Credentials, region and endpoint are those that boto3 finds in the environment.
"""

import errno
import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from pruneyard.reports.storage import StorageError

SCHEME = "s3"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")
_WHOLE_BYTES = 64 * 2**20  # larger objects are uploaded in parts and become visible after the last one
_ATTEMPTS = 3  # to read a response body; boto3 retries requests, but not the body that follows
_CONNECT_S = 10
_ABSENT = ("NoSuchKey", "404", "NotFound")
_REFUSED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure")
_DENIED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled")
_UNMET = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")

_clients: dict[tuple[Any, ...], Any] = {}
_client_lock = threading.Lock()


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A file or folder in a bucket; `key` has no slash at its ends and is empty for the bucket itself.

    Methods raise `FileNotFoundError` for missing objects, and `StorageError` for a store that cannot be used.
    """

    bucket: str
    key: str

    @classmethod
    def of(cls, uri: str) -> "ObjectPath":
        """Parses `s3://BUCKET/KEY`. Raises `ValueError` for an invalid URI, and if boto3 is not installed."""
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        # First of all, because the other messages repeat the URI.
        if "@" in bucket:
            raise ValueError(
                f"{SCHEME}://...@...: holds credentials; leave them out, they come from the environment"
            )
        if scheme != SCHEME or not _BUCKET.fullmatch(bucket):
            raise ValueError(f"{uri}: is no place in an object store; it must be {SCHEME}://BUCKET/FOLDER")
        parts = [part for part in key.split("/") if part]
        if any(part in (".", "..") for part in parts):
            raise ValueError(f"{uri}: has '.' or '..' in it, which an object store takes for names")
        if find_spec("boto3") is None:
            raise ValueError(f"{uri}: object stores need boto3; install it with: pip install 'pruneyard[s3]'")
        return cls(bucket, "/".join(parts))

    def __str__(self) -> str:
        return f"{SCHEME}://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.bucket, f"{self.key}/{name.strip('/')}".strip("/"))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """The last part without its last suffix."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """The suffix of the last part, including its dot."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> "ObjectPath":
        """The folder that contains this path."""
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def resolve(self) -> "ObjectPath":
        """Returns the path itself, which does not depend on the working directory."""
        return self

    def absolute(self) -> "ObjectPath":
        """Returns the path unchanged, which is absolute already."""
        return self

    def expanduser(self) -> "ObjectPath":
        """Returns the path unchanged: an address has no home folder."""
        return self

    def mkdir(self, mode: int = 0, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: folders exist as soon as they have objects."""

    def is_file(self) -> bool:
        """Returns whether an object of this name exists."""
        # Keys are listed in order, so an object comes before all longer keys that begin with its own.
        return self.key in self._first_keys()

    def is_dir(self) -> bool:
        """Returns whether any object exists below this name."""
        return bool(self._first_keys(below=True))

    def exists(self) -> bool:
        """Returns whether it is a file or a folder."""
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """Reads the object."""
        return self.read_tagged()[0]

    def read_tagged(self) -> tuple[bytes, str]:
        """Reads the object and returns it with its ETag."""
        from botocore.exceptions import BotoCoreError

        for attempt in range(1, _ATTEMPTS + 1):
            with _converted_errors(self):
                answer = _client().get_object(Bucket=self.bucket, Key=self.key)
                try:
                    # Both of one answer: between two requests, another process may write the object.
                    return answer["Body"].read(), answer["ETag"]
                except BotoCoreError:  # the connection broke while reading
                    if attempt == _ATTEMPTS:
                        raise
        raise AssertionError("unreachable")

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Reads the object as text."""
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, content: bytes | memoryview) -> None:
        """Writes the object, replacing an existing one."""
        with _converted_errors(self):
            if len(content) <= _WHOLE_BYTES:
                # boto3 does not take a memoryview.
                _client().put_object(Bucket=self.bucket, Key=self.key, Body=bytes(content))
            else:
                self._upload(io.BytesIO(content))

    def write_text(self, content: str, encoding: str = "utf-8") -> None:
        """Writes the object as text."""
        self.write_bytes(content.encode(encoding))

    def write_file(self, local: Path) -> None:
        """Uploads the content of a local file."""
        with local.open("rb") as file, _converted_errors(self):
            self._upload(file)

    def _upload(self, file: Any) -> None:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=_WHOLE_BYTES, multipart_chunksize=_WHOLE_BYTES // 2)
        _client().upload_fileobj(file, self.bucket, self.key, Config=config)

    def put_if(self, content: bytes, *, tag: str | None) -> str | None:
        """Writes the object if the existing one has this ETag, or if none exists and `tag` is None.

        Returns the new ETag, or None without any change if the condition does not hold.
        """
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        with _converted_errors(self):
            try:
                answer = _client().put_object(Bucket=self.bucket, Key=self.key, Body=content, **condition)
            except ClientError as error:
                # With IfMatch, a missing object is an unmet condition too.
                if error.response["Error"]["Code"] in (*_UNMET, *_ABSENT):
                    return None
                raise
        return str(answer["ETag"])

    def touch(self) -> None:
        """Writes an empty object."""
        self.write_bytes(b"")

    def unlink(self, missing_ok: bool = True) -> None:
        """Deletes the object; an object store does not say whether there was one."""
        with _converted_errors(self):
            _client().delete_object(Bucket=self.bucket, Key=self.key)

    def iterdir(self) -> Iterator["ObjectPath"]:
        """Yields the files and folders in this folder."""
        prefix = self._prefix
        with _converted_errors(self):
            pages = _client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/"):
                found = [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
                found += [entry["Key"] for entry in page.get("Contents", ())]
                # Some tools put an empty object in place of the folder itself.
                yield from (ObjectPath(self.bucket, key.strip("/")) for key in found if key != prefix)

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Yields the entries of this folder whose name matches the pattern, which must not have a slash."""
        # fnmatch negates a set of characters by `!` only.
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern.replace("[^", "[!")))

    def files(self) -> Iterator["ObjectPath"]:
        """Yields all objects below this name, at any depth."""
        with _converted_errors(self):
            pages = _client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix):
                yield from (ObjectPath(self.bucket, entry["Key"]) for entry in page.get("Contents", ()))

    def sizes_below(self) -> dict[str, int]:
        """Returns the sizes of all objects below this name, by their names relative to it."""
        prefix = self._prefix
        with _converted_errors(self):
            pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return {
                entry["Key"].removeprefix(prefix): entry["Size"] for page in pages for entry in page.get("Contents", ())
            }

    def last_changed(self) -> datetime | None:
        """Returns when an object below this name was last written; None where there is none."""
        with _converted_errors(self):
            pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._prefix)
            return max((entry["LastModified"] for page in pages for entry in page.get("Contents", ())), default=None)

    def remove_tree(self) -> None:
        """Deletes all objects below this name."""
        for path in self.files():
            path.unlink()

    @property
    def _prefix(self) -> str:
        return f"{self.key}/" if self.key else ""

    def _first_keys(self, *, below: bool = False) -> list[str]:
        """Returns the first key with this prefix. Unlike HEAD, listing distinguishes a missing bucket from a missing key."""
        prefix = self._prefix if below else self.key
        with _converted_errors(self):
            answer = _client().list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=1)
        return [entry["Key"] for entry in answer.get("Contents", ())]


def _client() -> Any:
    """Returns the client of this process and environment; creating one takes about 0.1 s."""
    given = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    # A client reads these variables once, and is not used across a fork.
    key = (os.getpid(), *given)
    with _client_lock:
        if key not in _clients:
            # Imported here, because boto3 is optional.
            import boto3
            from botocore.config import Config

            _clients[key] = boto3.session.Session().client(
                SCHEME, config=Config(connect_timeout=_CONNECT_S, max_pool_connections=32)
            )
        return _clients[key]


@contextmanager
def _converted_errors(path: ObjectPath) -> Iterator[None]:
    """Converts boto3 errors to messages that name the place, and never a credential."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _ABSENT:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path)) from error
        raise StorageError(f"{path}: {_refusal(path, code, error)}") from error
    except (BotoCoreError, Boto3Error) as error:
        raise StorageError(f"{path}: {_failure(error)}") from error


def _refusal(path: ObjectPath, code: str, error: Any) -> str:
    if code == "NoSuchBucket":
        return f"there is no bucket {path.bucket}; create it, or fix the URI"
    if code in _REFUSED:
        return f"the store refuses the credentials ({code}); set those of AWS_* or of AWS_PROFILE anew"
    if code in _DENIED:
        return "access is denied; the credentials in the environment must allow to list, read, write and delete here"
    said = error.response.get("Error", {}).get("Message", "no reason was given")
    return f"the store answers {code or 'with an error'}: {said}; give the same command again: what is finished is kept"


def _failure(error: Any) -> str:
    name = type(error).__name__
    if "Credential" in name or name in ("ProfileNotFound", "TokenRetrievalError"):
        return f"no credentials are found ({name}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    where = (
        "AWS_ENDPOINT_URL and the network"
        if "AWS_ENDPOINT_URL" in os.environ
        else "the network, or set AWS_ENDPOINT_URL"
    )
    return f"the store cannot be reached ({name}); check {where}, then give the same command again: what is finished is kept"
