"""Reads and validates the packaged claims. Errors name the file, the entry and the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from pruneyard.reports.claims.claim import Source
from pruneyard.reports.claims.reading import ClaimError, packaged_claims
from pruneyard.reports.evidence.claim import EvidenceClaims


@cache
def packaged_evidence() -> EvidenceClaims:
    """Returns the claims that come with the package."""
    return read_evidence(Path(str(files("pruneyard.reports.evidence").joinpath("claims.yaml"))))


def read_evidence(path: Path) -> EvidenceClaims:
    """Reads the claims of one file; `sources` of the published numbers are known too. Raises `ClaimError`."""
    document = YAML(typ="safe", pure=True).load(path)
    try:
        found = TypeAdapter(EvidenceClaims).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise ClaimError(f"{path.name}: {at}: {first['msg']}, not {first['input']!r}") from error
    sources: Mapping[str, Source] = {**packaged_claims().sources, **found.sources}
    for source in [*(claim.source for claim in found.claims), *(confound.source for confound in found.confounds)]:
        if source not in sources:
            raise ClaimError(f"{path.name}: source is {source!r}; it must be one of {', '.join(sorted(sources))}")
    return replace(found, sources=sources)
