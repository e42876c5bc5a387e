"""Reads a cluster profile from a file or from the packaged ones, with overrides from the command line."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from pruneyard.cluster.profile import Profile, ProfileError, Workers
from pruneyard.orchestrator.errors import SpecError, UsageError
from pruneyard.orchestrator.spec.codec import decode, short_json
from pruneyard.orchestrator.spec.problem_log import ProblemLog
from pruneyard.orchestrator.spec.yaml_document import SUFFIXES, Document, parse_document, plain
from pruneyard.workloads.user_code.nearest import nearest


def packaged_profiles() -> list[str]:
    """Returns the names of the profiles that ship with the package."""
    folder = files("pruneyard.cluster.profiles")
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_profile(source: str, *, overrides: Mapping[str, Any]) -> Profile:
    """Returns the profile. `overrides` sets dotted keys such as `workers.gpu.count`. Raises `SpecError` with all problems."""
    return _Reading(_document(source), overrides).profile()


def render(source: str, *, overrides: Mapping[str, Any], renderer: Callable[[Profile], str]) -> str:
    """Returns the manifest. Raises `SpecError` at the key that the format needs and the profile lacks."""
    reading = _Reading(_document(source), overrides)
    try:
        return renderer(reading.profile())
    except ProfileError as error:
        reading.log.add(error.key, error.message)
        raise reading.error() from error


def _document(source: str) -> Document:
    path = Path(source)
    if path.suffix in SUFFIXES or path.is_file():
        try:
            return parse_document(path.read_text(encoding="utf-8"), origin=source)
        except OSError as error:
            raise UsageError(f"{source}: cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{source}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if source in packaged_profiles():
        text = files("pruneyard.cluster.profiles").joinpath(f"{source}.yaml").read_text(encoding="utf-8")
        return parse_document(text, origin=f"{source} (packaged)")
    known = packaged_profiles()
    hint = nearest(source, known)
    raise UsageError(
        f"{source}: there is no such file, and the packaged profiles are {', '.join(known)}{hint}"
    )


class _Reading:
    """One pass over a document that collects every problem before it raises."""

    def __init__(self, document: Document, overrides: Mapping[str, Any]) -> None:
        self._document = document
        self._tables: dict[str, Any] = dict(document.tables)
        self.log = ProblemLog(document.lines, command_line_keys=frozenset(overrides))
        for key, value in plain(overrides).items():
            _set(self._tables, key.split("."), value)

    def error(self) -> SpecError:
        """Returns an error with every problem reported so far."""
        return SpecError(self._document.origin, self.log.problems)

    def profile(self) -> Profile:
        """Returns the profile. Raises `SpecError` if any problem was found."""
        # Decoded apart from the profile, because the names of worker groups are free.
        groups = self._groups(self._tables.get("workers", {}))
        others = {key: value for key, value in self._tables.items() if key != "workers"}
        profile: Profile | None = decode(Profile, others, "", self.log)
        if self.log.problems or profile is None:
            raise self.error()
        try:
            return replace(profile, workers=groups)
        except ValueError as error:
            key, _, message = str(error).partition(" ")
            self.log.add(key, message)
            raise self.error() from error

    def _groups(self, tables: Any) -> dict[str, Workers]:
        if not isinstance(tables, Mapping):
            self.log.add(
                "workers", f"is {short_json(tables)}; it must be a table of groups, as in gpu: {{count: 2, ...}}"
            )
            return {}
        return {
            name: decode(Workers, table, f"workers.{name}", self.log) for name, table in tables.items()
        }


def _set(tables: dict[str, Any], path: list[str], value: Any) -> None:
    head, *rest = path
    if not rest:
        tables[head] = value
        return
    inner = tables.get(head)
    tables[head] = dict(inner) if isinstance(inner, Mapping) else {}
    _set(tables[head], rest, value)
