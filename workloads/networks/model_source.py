"""The source of the user's own models, by which a network is known to be rebuilt by the code that it was trained with."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.plugins import name_of
from pruneyard.workloads.user_code.identity import source_digest, source_files

logger = logging.getLogger(__name__)


def sources_of(model: ModelBuilder) -> dict[str, str]:
    """Returns the digest of the source of every model of the user's own in a table, by name; none for models of this package."""
    digests = {name_of(part): source_digest(type(part)) for part in _parts(model)}
    return {name: digest for name, digest in digests.items() if digest is not None}


def check_sources(model: ModelBuilder, trained: Mapping[str, str]) -> None:
    """Raises `ValueError` if the source of a model differs from what its network was trained with.

    trained: what `sources_of` returned then; a model that is not in it is not compared. A new version of an installed package is
    logged as a warning.
    """
    now = sources_of(model)
    for part in _parts(model):
        name = name_of(part)
        if trained.get(name, now.get(name)) == now.get(name):
            continue
        changed = "has changed since this network was trained, and its weights belong to the code as it was"
        if files := source_files(type(part)):
            of = f"the source of {name}, {', '.join(map(str, files))},"
            raise ValueError(f"model: {of} {changed}; restore that source, or train again")
        logger.warning("model: the installed version of the package of %s %s", name, changed)


def _parts(model: Any) -> Iterator[Any]:
    """Yields a model and those that its table contains."""
    yield model
    for field in dataclasses.fields(model):
        content = getattr(model, field.name)
        if dataclasses.is_dataclass(content) and not isinstance(content, type):
            yield from _parts(content)
