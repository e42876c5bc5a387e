"""Packaged specs, for tests of all of them."""

from functools import cache

from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.orchestrator.spec.packaged import packaged_specs

ASKING = ("calibrate-anything",)  # for a folder of results, which a user names
COMPLETE = [name for name in packaged_specs() if name not in ASKING]


@cache
def packaged(name: str) -> Spec:
    """Loaded once for all tests of it."""
    return load_spec(name)
