"""Files and folders of an object store that speaks S3, with those methods of `pathlib.Path` that results need.

A folder is nothing but the beginning of names. A put is there as a whole or not at all and nothing can be moved, so a name is
written once, with its final content. Credentials, region and endpoint are those that boto3 finds in the environment.
"""

import errno
import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from pruneyard.reports.storage import StorageError

SCHEME = "s3"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")
_WHOLE_BYTES = 64 * 2**20  # what is larger goes up in parts, which nobody sees before the last one
_ATTEMPTS = 3  # at reading an answer to its end; boto3 repeats requests, but not what follows them
_CONNECT_S = 10
_ABSENT = ("NoSuchKey", "404", "NotFound")
_REFUSED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure")
_DENIED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled")
_UNMET = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")

_clients: dict[tuple[Any, ...], Any] = {}
_making = threading.Lock()


@dataclass(frozen=True, order=True)
class ObjectPath:
    """One name in a bucket; `key` has no slash at its ends and is empty for the bucket itself.

    Methods raise `FileNotFoundError` for what is not there, and `StorageError` for a store that cannot be used.
    """

    bucket: str
    key: str

    @classmethod
    def of(cls, uri: str) -> "ObjectPath":
        """From `s3://BUCKET/KEY`. Raises `ValueError` for no such URI, and where boto3 is not installed."""
        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        if "@" in bucket:
            raise ValueError(
                f"{SCHEME}://...@...: holds credentials; leave them out, they come from the environment"
            )
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
        """The last part."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """The last part without its last suffix."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """From the last dot of the last part on."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> "ObjectPath":
        """Without the last part."""
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def resolve(self) -> "ObjectPath":
        """Itself: it does not depend on where a process is."""
        return self

    def absolute(self) -> "ObjectPath":
        """Itself."""
        return self

    def expanduser(self) -> "ObjectPath":
        """Itself."""
        return self

    def mkdir(self, mode: int = 0, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders come with what is in them."""

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return self.key in self._first_keys()

    def is_dir(self) -> bool:
        """Whether there is anything below this name."""
        return bool(self._first_keys(below=True))

    def exists(self) -> bool:
        """Whether it is a file or a folder."""
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """All of the object."""
        return self.read_tagged()[0]

    def read_tagged(self) -> tuple[bytes, str]:
        """All of the object, and the tag of this content."""
        from botocore.exceptions import BotoCoreError

        for attempt in range(1, _ATTEMPTS + 1):
            with _told(self):
                answer = _client().get_object(Bucket=self.bucket, Key=self.key)
                try:
                    return answer["Body"].read(), answer["ETag"]
                except BotoCoreError:  # the answer broke off
                    if attempt == _ATTEMPTS:
                        raise
        raise AssertionError("unreachable")

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """All of the object as text."""
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, content: bytes | memoryview) -> None:
        """Puts the object, in the place of one of this name."""
        with _told(self):
            if len(content) <= _WHOLE_BYTES:
                _client().put_object(Bucket=self.bucket, Key=self.key, Body=bytes(content))
            else:
                self._upload(io.BytesIO(content))

    def write_text(self, content: str, encoding: str = "utf-8") -> None:
        """Puts the object as text."""
        self.write_bytes(content.encode(encoding))

    def write_file(self, local: Path) -> None:
        """Puts the content of a file here."""
        with local.open("rb") as file, _told(self):
            self._upload(file)

    def _upload(self, file: Any) -> None:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=_WHOLE_BYTES, multipart_chunksize=_WHOLE_BYTES // 2)
        _client().upload_fileobj(file, self.bucket, self.key, Config=config)

    def put_if(self, content: bytes, *, tag: str | None) -> str | None:
        """Puts the object if the one there has this tag, or if there is none where `tag` is None.

        Returns the new tag; None, with nothing changed, where it was otherwise.
        """
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        with _told(self):
            try:
                answer = _client().put_object(Bucket=self.bucket, Key=self.key, Body=content, **condition)
            except ClientError as error:
                if error.response["Error"]["Code"] in (*_UNMET, *_ABSENT):
                    return None
                raise
        return str(answer["ETag"])

    def touch(self) -> None:
        """Puts an empty object."""
        self.write_bytes(b"")

    def unlink(self, missing_ok: bool = True) -> None:
        """Deletes the object; an object store does not say whether there was one."""
        with _told(self):
            _client().delete_object(Bucket=self.bucket, Key=self.key)

    def iterdir(self) -> Iterator["ObjectPath"]:
        """Files and folders in this folder."""
        prefix = self._prefix
        with _told(self):
            pages = _client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/"):
                found = [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
                found += [entry["Key"] for entry in page.get("Contents", ())]
                yield from (ObjectPath(self.bucket, key.strip("/")) for key in found if key != prefix)

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Of those in this folder, the ones whose name is like the pattern, which has no slash."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern.replace("[^", "[!")))

    def files(self) -> Iterator["ObjectPath"]:
        """All objects below this name, at any depth."""
        with _told(self):
            pages = _client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix):
                yield from (ObjectPath(self.bucket, entry["Key"]) for entry in page.get("Contents", ()))

    def remove_tree(self) -> None:
        """Deletes all below this name."""
        for path in self.files():
            path.unlink()

    @property
    def _prefix(self) -> str:
        return f"{self.key}/" if self.key else ""

    def _first_keys(self, *, below: bool = False) -> list[str]:
        """The first name that begins so. A list, unlike a look at one object, tells a missing bucket from a missing object."""
        prefix = self._prefix if below else self.key
        with _told(self):
            answer = _client().list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=1)
        return [entry["Key"] for entry in answer.get("Contents", ())]


def _client() -> Any:
    """One for each process and environment; making it takes about 0.1 s."""
    given = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    key = (os.getpid(), *given)
    with _making:
        if key not in _clients:
            import boto3
            from botocore.config import Config

            _clients[key] = boto3.session.Session().client(
                SCHEME, config=Config(connect_timeout=_CONNECT_S, max_pool_connections=32)
            )
        return _clients[key]


@contextmanager
def _told(path: ObjectPath) -> Iterator[None]:
    """Errors of boto3 in words that name the place, and never a credential."""
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
        return f"there is no bucket {path.bucket}; make it, or mend the URI"
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
