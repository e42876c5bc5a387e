"""Reads and validates the files of published results. Comments in the files explain their keys.

Errors name the file, the entry, the key and the allowed values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pruneyard.reports.claims.claim import (
    KEYS_OF_KIND,
    PLAIN,
    Claim,
    Claims,
    Data,
    Gain,
    Kind,
    Protocol,
    Row,
    Source,
    density_of,
    ipc_of,
)

T = TypeVar("T")

_ADAPTERS: Mapping[type[Any], TypeAdapter[Any]] = {
    cls: TypeAdapter(cls) for cls in (Data, Source, Protocol, Row, Gain)
}


class ClaimError(ValueError):
    """A claims file is invalid; the message names the file, the entry, the key and the allowed values."""


@cache
def packaged_claims() -> Claims:
    """Returns the claims that come with the package."""
    folder = files("pruneyard.reports.claims")
    return joined([read_claims(Path(str(folder.joinpath(f"{kind}.yaml")))) for kind in KEYS_OF_KIND])


def read_claims(path: Path) -> Claims:
    """Reads the claims of one file. Raises `ClaimError` for its first invalid entry."""
    try:
        document = YAML(typ="safe", pure=True).load(path)
    except YAMLError as error:
        raise ClaimError(f"{path.name} is not valid YAML: {error}") from error
    return _Reader(path.name, _a_table(document, path.name, "the file")).claims()


def joined(parts: Sequence[Claims]) -> Claims:
    """Merges the claims of several files. Raises `ClaimError` if two files define the same name differently."""

    def named(of: Callable[[Claims], Mapping[str, T]]) -> dict[str, T]:
        found: dict[str, T] = {}
        for part in parts:
            for name, value in of(part).items():
                # `setdefault` returns the value of an earlier file.
                if found.setdefault(name, value) != value:
                    raise ClaimError(f"{name} is {value} in one file and {found[name]} in another; they must agree")
        return found

    return Claims(
        values=tuple(claim for part in parts for claim in part.values),
        gains=tuple(gain for part in parts for gain in part.gains),
        data=named(lambda part: part.data),
        models=named(lambda part: part.models),
        methods=named(lambda part: part.methods),
        sources=named(lambda part: part.sources),
    )


class _Reader:
    """Converts the tables of one file into claims and reports where an entry is invalid."""

    PARTS = ("data", "models", "methods", "sources", "protocols", "tables", "gains", "kind")

    def __init__(self, name: str, document: Mapping[str, Any]) -> None:
        self.name = name
        for part in self.PARTS:
            if part not in document:
                raise ClaimError(f"{name}: {part} is missing; the file needs {', '.join(self.PARTS)}")
        self._one_of(document, "the file", self.PARTS)
        if document["kind"] not in KEYS_OF_KIND:
            raise ClaimError(f"{name}: kind is {document['kind']!r}; it must be one of {', '.join(KEYS_OF_KIND)}")
        self.kind: Kind = document["kind"]
        self.document = document
        self.data = self._named("data", Data)
        self.models = {name: str(title) for name, title in self._part("models").items()}
        self.methods = {name: str(title) for name, title in self._part("methods").items()}
        self.sources = self._named("sources", Source)
        self.protocols = self._named("protocols", Protocol)

    def claims(self) -> Claims:
        """Returns all claims of the file."""
        return Claims(
            values=tuple(self._values()),
            gains=tuple(self._gains()),
            data=self.data,
            models=self.models,
            methods=self.methods,
            sources=self.sources,
        )

    def _values(self) -> Iterator[Claim]:
        line = 0
        for place, table in enumerate(self.document["tables"]):
            entry = f"tables[{place}]"
            self._one_of(_a_table(table, self.name, entry), entry, ("where", "common", "rows"))
            for number, row in enumerate(table["rows"]):
                # Counted over all tables, since the page groups numbers by it.
                line += 1
                at = f"{entry} ({table['where']}), row {number}"
                merged = {**table["common"], **_a_table(row, self.name, at)}
                yield from self._expand(self._decode(Row, merged, at), where=table["where"], at=at, line=line)

    def _expand(self, row: Row, *, where: str, at: str, line: int) -> Iterator[Claim]:
        self._check_names(row, at)
        protocol = self._known(row.protocol, self.protocols, at, "protocol") if row.protocol else Protocol()
        plain = PLAIN if self.kind == "sparse" else {}
        recipe: dict[str, Any] = {**plain, **protocol.recipe, **row.recipe}
        for key in recipe:
            self._known(key, KEYS_OF_KIND[self.kind], at, "a key of the recipe")
        if "budget.epochs" in recipe:
            # `recipe` is a new dict, so the protocol keeps its own epochs for its other rows.
            recipe["budget.epochs"] *= row.length
        for place, value in row.values.items():
            density, ipc = self._place(place, at)
            mean, spread = value if isinstance(value, tuple) else (value, None)
            yield Claim(
                kind=self.kind,
                source=self.sources[row.source],
                where=where,
                tag=row.tag,
                data=row.data,
                model=row.model,
                method=row.method,
                metric=row.metric,
                density=density,
                ipc=ipc,
                value=mean,
                spread=spread,
                spread_is=row.spread if spread is not None else "",
                runs=row.runs,
                distribution=row.distribution,
                length=row.length,
                train_rows=protocol.train_rows,
                augment=protocol.augment,
                recipe=recipe,
                settings=row.settings,
                bins=row.bins,
                other=row.other,
                notes=tuple(note for note in (protocol.note, row.note) if note),
                line=line,
            )

    def _place(self, place: float | str, at: str) -> tuple[float | None, int | None]:
        """Returns density and images per class, one of which is None."""
        try:
            return (density_of(place), None) if self.kind == "sparse" else (None, ipc_of(place))
        except ValueError as error:
            raise ClaimError(f"{self.name}: {at}: {error}") from error

    def _gains(self) -> Iterator[tuple[Gain, Source]]:
        for place, table in enumerate(self.document["gains"]):
            at = f"gains[{place}]"
            gain = self._decode(Gain, _a_table(table, self.name, at), at)
            self._check_names(gain, at)
            yield gain, self.sources[gain.source]

    def _check_names(self, entry: Row | Gain, at: str) -> None:
        self._known(entry.source, self.sources, at, "source")
        self._known(entry.method, self.methods, at, "method")
        if entry.data:
            self._known(entry.data, self.data, at, "data")
        if entry.model:
            self._known(entry.model, self.models, at, "model")

    def _part(self, part: str) -> Mapping[str, Any]:
        return _a_table(self.document[part], self.name, part)

    def _named(self, part: str, cls: type[T]) -> dict[str, T]:
        return {
            name: self._decode(cls, _a_table(table, self.name, f"{part}.{name}"), f"{part}.{name}")
            for name, table in self._part(part).items()
        }

    def _known(self, name: str, names: Mapping[str, T], at: str, key: str) -> T:
        if name not in names:
            raise ClaimError(f"{self.name}: {at}: {key} is {name!r}; it must be one of {', '.join(names)}")
        return names[name]

    def _one_of(self, table: Mapping[str, Any], at: str, allowed: tuple[str, ...]) -> None:
        for key in table:
            if key not in allowed:
                raise ClaimError(f"{self.name}: {at}: {key} is unknown; allowed are {', '.join(allowed)}")

    def _decode(self, cls: type[T], table: Mapping[str, Any], at: str) -> T:
        # Before pydantic, whose message would not list the allowed keys.
        self._one_of(table, at, tuple(f.name for f in dataclasses.fields(cls)))  # type: ignore[arg-type]
        try:
            decoded: T = _ADAPTERS[cls].validate_python(table)
        except ValidationError as error:
            raise ClaimError(f"{self.name}: {at}: {_problem(error)}") from error
        return decoded


def _a_table(value: Any, name: str, at: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ClaimError(f"{name}: {at} is {value!r}; it must be a mapping")
    return value


def _problem(error: ValidationError) -> str:
    """Returns the first validation problem as key, value and allowed values."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("missing", "missing_argument"):
        return f"{key} is missing"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key} is {first['input']!r}; {message[0].lower()}{message[1:]}" if key else message
