"""The specs that ship with the package, for tests of all of them."""

from orchestrator.document import packaged_specs

ASKING = ("calibrate-anything",)  # for a folder of results, which a user names
COMPLETE = [name for name in packaged_specs() if name not in ASKING]
