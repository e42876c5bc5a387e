"""Data classes of the claims of papers that runs can speak for or against, each validated on construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from pruneyard.reports.claims.claim import TAGS, Source, Tag

Values = Mapping[str, Any]
"""Values at dotted keys of a run's spec; null stands for a key that the spec does not have."""


class _Strict:
    """Base class whose validation rejects unknown keys and infinite numbers."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Published(_Strict):
    """The result that a paper reports, and how it was obtained.

    gain: the largest reported change of the measure against the base method, a difference (`points`) or a fraction of the base
    method's value (`relative`); None where no number was read at its source. protocol: the setting that it was reported in.
    """

    text: str
    tag: Tag
    protocol: str
    gain: float | None = None
    unit: Literal["points", "relative"] = "points"


@dataclass(frozen=True, kw_only=True)
class Condition(_Strict):
    """A quantity that says whether the mechanism acts: beyond the threshold it does.

    against_base: the difference from the base method is meant, paired by seed, and not the value itself.
    why: what the threshold stands for.
    """

    measure: str
    why: str
    above: float | None = None
    below: float | None = None
    against_base: bool = False

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"above is {self.above} and below is {self.below}; exactly one of them must be given")


@dataclass(frozen=True, kw_only=True)
class Guard(_Strict):
    """A measure that the claim says is kept: it may fall (or rise, if smaller is better) by at most `worse_by`."""

    measure: str
    worse_by: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Compared(_Strict):
    """Two settings that are compared: the values that single out the base method's runs, and the method's.

    as_published: whether the method's own settings are the published ones, as far as they are known.
    """

    label: str
    base: Values
    method: Values
    as_published: bool = False
    where: Values = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PaperClaim(_Strict):
    """One claim of a paper.

    measure: `split/name`, or `epochs to split/name` for the epochs until the base method's level is reached. rises: whether the
    measure rises if the claim holds. match: the dotted keys, or tables, in which the two settings must agree. spec: the packaged
    spec whose runs speak to it.
    """

    method: str
    source: str
    claim: str
    published: Published
    spec: str
    measure: str
    rises: bool
    match: tuple[str, ...]
    comparisons: tuple[Compared, ...]
    mechanism: tuple[Condition, ...]
    keeps: tuple[Guard, ...] = ()

    def __post_init__(self) -> None:
        if not (self.comparisons and self.mechanism):
            raise ValueError("comparisons or mechanism is empty; a claim needs at least one of each")
        gain = self.published.gain
        if gain is not None and (gain > 0) != self.rises:
            raise ValueError(f"published.gain is {gain}, but rises is {self.rises}; they must agree")


@dataclass(frozen=True, kw_only=True)
class Confound(_Strict):
    """A fact about released code or a published comparison that weakens what it shows; with where it was read."""

    method: str
    source: str
    tag: Tag
    fact: str


@dataclass(frozen=True, kw_only=True)
class EvidenceClaims(_Strict):
    """The content of the file: claims, confounds, and the sources that the claims of numbers do not have."""

    sources: Mapping[str, Source]
    claims: tuple[PaperClaim, ...]
    confounds: tuple[Confound, ...]


TAG_TEXTS = "; ".join(f"{tag}: {words}" for tag, words in TAGS.items())
