"""Folders that a submitted study may write to: those that every node can access."""

from pathlib import Path

import pytest

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.remote.submission import cache_arguments, folder_on_cluster
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.reports.location import located


@pytest.fixture(scope="module")
def spec() -> Spec:
    return load_spec("quickstart")


@pytest.mark.parametrize("out", ["/shared/study", "s3://bucket/study", "file:///shared/study"])
def test_absolute_paths_and_uris_are_passed_on(out: str, spec: Spec) -> None:
    assert folder_on_cluster(out, spec) == out


def test_what_a_shell_would_read_is_quoted(spec: Spec) -> None:
    assert folder_on_cluster("s3://bucket/a b;c", spec) == "'s3://bucket/a b;c'"


@pytest.mark.parametrize(
    ("out", "message"),
    [("out", "it must be an absolute path"), ("gs://bucket/a", "URIs may start with s3:// and file://")],
)
def test_others_are_refused(out: str, message: str, spec: Spec) -> None:
    with pytest.raises(UsageError, match=message):
        folder_on_cluster(out, spec)


def test_caches_are_passed_on_and_a_relative_one_is_refused() -> None:
    assert cache_arguments(None, []) == ""
    given = [located("s3://bucket/a b"), Path("/shared/old")]
    assert cache_arguments(Path("/shared/cache"), given) == (
        " --cache /shared/cache --cache-from 's3://bucket/a b' --cache-from /shared/old"
    )
    with pytest.raises(UsageError, match="--cache-from old: it must be an absolute path"):
        cache_arguments(None, [Path("old")])
