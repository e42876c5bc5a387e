"""A Python function as the code of a job: how it is found, checked, identified and called."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneyard.workloads.function.context import FunctionContext
from pruneyard.workloads.function.function_run import FunctionRun
from pruneyard.workloads.function.importing import import_function
from pruneyard.workloads.function.lengths import length_in
from pruneyard.workloads.user_code.identity import SOURCE, digest_of, files_of, identity_name

CONTEXT, SEED = "context", "seed"


@dataclass(frozen=True)
class PythonFunction:
    """A function by its reference. It also gets `context` and `seed` if it has arguments of these names."""

    reference: str

    @property
    def title(self) -> str:
        """The name of the function, for people."""
        return identity_name(self.reference)

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raises `ValueError`, starting with the key, if there is no such function or the arguments do not fit its signature."""
        try:
            signature = _signature_of(self._function)
        except ValueError as error:
            raise ValueError(f"function cannot be used: {error}") from error
        for given in (CONTEXT, SEED):
            if given in arguments:
                rule = (
                    "functions that have an argument of this name get it"
                    if given == CONTEXT
                    else "give `seeds` instead"
                )
                raise ValueError(f"arguments.{given} is reserved: {rule}")
        if signature is not None:
            _check_signature(signature, arguments, name=self.title)

    def run(self, arguments: Mapping[str, Any], run: FunctionRun) -> Any:
        """Calls the function and returns what it returns."""
        signature = _signature_of(self._function)
        named = {CONTEXT: FunctionContext(run), SEED: run.seed}
        asked = (
            {}
            if signature is None
            else {key: value for key, value in named.items() if key in signature.parameters}
        )
        return self._function(**arguments, **asked)

    def num_steps(self, arguments: Mapping[str, Any]) -> int | None:
        """Returns the number of steps that an argument, given or by default, tells; else None."""
        signature = _signature_of(self._function)
        defaults = (
            {} if signature is None else {key: each.default for key, each in signature.parameters.items()}
        )
        return length_in({**defaults, **arguments})

    def seeds_problem(self, arguments: Mapping[str, Any]) -> str:
        """Returns no problem: the global generators are seeded before every call."""
        return ""

    def identity(self, arguments: Mapping[str, Any], *, with_source: bool) -> dict[str, str]:
        """Returns what the run key says about the function: its name, and a digest of its source unless that is left out."""
        return {"function": self.title} | ({SOURCE: digest_of(self.reference)} if with_source else {})

    def files(self, arguments: Mapping[str, Any]) -> list[Path]:
        """Returns the files of the function's source."""
        return files_of(self.reference)

    @property
    def _function(self) -> Callable[..., Any]:
        found: Callable[..., Any] = import_function(self.reference)
        return found


def _check_signature(signature: inspect.Signature, arguments: Mapping[str, Any], *, name: str) -> None:
    every = signature.parameters
    parameters = {
        key: each for key, each in every.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    }
    takes_any = any(each.kind is each.VAR_KEYWORD for each in every.values())
    known = [key for key in parameters if key not in (CONTEXT, SEED)]
    for given in arguments:
        if given not in parameters and not takes_any:
            close = difflib.get_close_matches(given, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(
                f"arguments.{given} is no argument of {name}, which takes {', '.join(known) or 'none'}{hint}"
            )
    for key, each in parameters.items():
        if each.kind is each.POSITIONAL_ONLY:
            raise ValueError(
                f"function is {name}, whose argument {key} cannot be given by name; remove the / from its signature"
            )
        if each.default is each.empty and key not in arguments and key not in (CONTEXT, SEED):
            raise ValueError(f"arguments.{key} is missing; {name} has no default for it, so it must be given")


def _signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """Returns the signature; None for a callable that does not tell it."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None
