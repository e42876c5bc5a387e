"""Reads from the run table on which data a run was computed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache

INPUT = "input"
"""The key for the data of the runs that a run took its input from."""
LOADED = "loaded"
"""The key for the data as loaded, which can be a selection of the real data set."""


class DifferentDataError(ValueError):
    """One run was computed on different data in two folders."""


def data_records(
    data_read: Iterable[str | None], data_fingerprint: Iterable[str | None], parent_key: Iterable[str | None]
) -> list[dict[str, str]]:
    """Returns for every run the hashes of the data that it was computed on, by key of the spec, from columns of the run table.

    The hash of data that earlier runs made is left out: it differs between seeds by design.
    """
    return [
        {**_parsed(read), **({LOADED: loaded} if loaded is not None and parents is None else {})}
        for read, loaded, parents in zip(data_read, data_fingerprint, parent_key, strict=True)
    ]


@lru_cache(maxsize=1024)
def _parsed(text: str | None) -> dict[str, str]:
    return {} if text is None else dict(json.loads(text))


def content_of(record: Mapping[str, str]) -> dict[str, str]:
    """Returns the hashes that tell apart runs on different data, by key of the spec: for `data` that of the rows as loaded."""
    loaded = {"data": record[LOADED]} if LOADED in record else {}
    return {key: value for key, value in {**record, **loaded}.items() if key != LOADED}


def conflict(one: Mapping[str, str], other: Mapping[str, str]) -> tuple[str, str] | None:
    """Returns two different hashes of the same data in two records; None where they agree as far as they are known."""
    before, after = content_of(one), content_of(other)
    return next(((value, after[key]) for key, value in before.items() if after.get(key, value) != value), None)
