"""Packaged specs, for tests of all of them."""

from functools import cache

from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.orchestrator.spec.packaged import packaged_specs

NEED_A_FOLDER = ("calibrate-anything",)  # for a folder of results, which a user names
COMPLETE = [name for name in packaged_specs() if name not in NEED_A_FOLDER]


@cache
def packaged(name: str) -> Spec:
    """Loads a packaged spec once for all tests."""
    return load_spec(name)
