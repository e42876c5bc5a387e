"""Collects the problems of a spec or profile, each at its dotted key and line, so that all of them are reported at once."""

import copy
import re
from collections.abc import Mapping

from pruneyard.orchestrator.errors import Problem


class ProblemLog:
    """Collects problems by dotted key while the tables of a document are validated.

    lines: the 1-based line of every dotted key in the document.
    prefix: the dotted key of the validated tables in the document; empty where they are the whole document.
    command_line_keys: keys whose values were given on the command line, so that they have no line.
    """

    def __init__(
        self,
        lines: Mapping[str, int] | None = None,
        *,
        prefix: str = "",
        command_line_keys: frozenset[str] = frozenset(),
    ) -> None:
        self.problems: list[Problem] = []
        self._lines, self._prefix, self._command_line_keys = lines or {}, prefix, command_line_keys
        self._origins: Mapping[str, str] = {}

    @property
    def num_problems(self) -> int:
        """The number of problems so far. A caller compares it before and after a step to learn whether the step failed."""
        return len(self.problems)

    def add(self, key: str, message: str) -> None:
        """Adds a problem at a dotted key."""
        self.problems.append(self.problem(key, message))

    def problem(self, key: str, message: str) -> Problem:
        """Returns a problem at a dotted key; its line is that of the key or of the nearest table around it."""
        key = _origin_of(key, self._origins)
        axis = key.removeprefix("grid.")
        if any(axis == given or axis.startswith((f"{given}.", f"{given}[")) for given in self._command_line_keys):
            return Problem(0, axis, f"{message} (from an override)")
        full = self._in_document(key)
        at, line = full, 0
        # Removes the last part until a line is known: `a.b[0]`, `a.b`, `a`.
        while at and not line:
            line = self._lines.get(at, 0)
            at = at[: max(at.rfind("."), at.rfind("["), 0)]
        return Problem(line, full, message)

    def _in_document(self, key: str) -> str:
        """Returns the key in the whole document: below the prefix, unless the stage has it from a table shared by all stages."""
        full, table = join_keys(self._prefix, key), re.split(r"[.\[]", key, maxsplit=1)[0]
        is_shared = self._prefix and join_keys(self._prefix, table) not in self._lines and table in self._lines
        return key if is_shared else full

    def with_origins(self, origins: Mapping[str, str]) -> "ProblemLog":
        """Returns a log that adds to the same problems and names, for a key of a job, the axis or variant that set it.

        origins: by dotted key of the job, the dotted key in the spec that its value comes from.
        """
        view = copy.copy(self)
        view._origins = origins
        return view


def join_keys(key: str, name: str) -> str:
    """Returns the dotted key of `name` inside the table at `key`."""
    return f"{key}.{name}" if key and name else key or name


def _origin_of(key: str, origins: Mapping[str, str]) -> str:
    """Returns where the value of a key stands in the spec: at the origin with the longest matching prefix, else at the key."""
    prefixes = [p for p in origins if key == p or key.startswith((f"{p}.", f"{p}["))]
    if not prefixes:
        return key
    prefix = max(prefixes, key=len)
    return origins[prefix] + key[len(prefix) :]
