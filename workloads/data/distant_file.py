"""A file named by its path or, in an object store that speaks S3, by its URI, of which a copy is kept on this machine.

Credentials, region and endpoint are those that boto3 finds in the environment.
"""

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from pruneyard.workloads.data.folders import cache_folder

_SCHEME = "s3://"


def local_file(name: str) -> Path:
    """The file itself, or a copy of what is there now. Raises `ValueError` where an object cannot be read."""
    return _copy(name) if name.startswith(_SCHEME) else Path(name).expanduser()


def _copy(uri: str) -> Path:
    if find_spec("boto3") is None:
        raise ValueError(f"{uri}: object stores need boto3; install it with: pip install 'pruneyard[s3]'")
    import boto3
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    try:
        client = boto3.session.Session().client("s3")
        tag = client.head_object(Bucket=bucket, Key=key)["ETag"]
        digest = hashlib.sha256(f"{uri}\n{tag}".encode()).hexdigest()[:32]
        kept = cache_folder() / "objects" / digest / Path(key).name
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            aside = kept.with_name(f".{uuid4().hex}")
            client.download_file(bucket, key, str(aside))
            os.replace(aside, kept)
    except (BotoCoreError, Boto3Error, ClientError) as error:
        raise ValueError(f"{uri}: cannot be read: {error}") from error
    return kept
