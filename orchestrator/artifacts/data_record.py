"""Compares the data that a finished run recorded with a data source."""

from collections.abc import Mapping

from pruneyard.reports.data_record import LOADED
from pruneyard.workloads.data.dataset import Source


def recorded_fingerprint(recorded: Mapping[str, str], source: Source, key: str = "data") -> str | None:
    """Returns the fingerprint that a run recorded for the data that `source` rests on; None if it is not known.

    recorded: fingerprints by the key of the spec that names the data set; `LOADED` is that of `data`, as loaded.
    """
    if key in recorded:
        return recorded[key]
    # Data as loaded can be rows selected from the data that it rests on.
    return recorded.get(LOADED) if key == "data" and source.rests_on() is source else None
