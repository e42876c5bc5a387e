"""Many small cases of one rule in one test: pytest's parametrisation costs more than such a case takes."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest

Test = Callable[..., None]


def each_case(
    names: str | tuple[str, ...], cases: Iterable[Any], ids: Callable[[Any], object] | Iterable[object] | None = None
) -> Callable[[Test], Test]:
    """Runs a test once for each case, within one test; takes what `pytest.mark.parametrize` takes, without marks.

    An error stops the test and carries a note that names the case. A case that skips leaves the others to run; where all cases
    skip, the test is skipped.
    """
    arguments = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    cases_as_tuples = [tuple(case) if len(arguments) > 1 else (case,) for case in cases]
    labels = [None] * len(cases_as_tuples) if ids is None or callable(ids) else list(ids)
    assert cases_as_tuples, "there is no case"

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(*args: Any, **fixtures: Any) -> None:
            skipped = []
            for values, label in zip(cases_as_tuples, labels, strict=True):
                case = dict(zip(arguments, values, strict=True))
                try:
                    test(*args, **fixtures, **case)
                except pytest.skip.Exception as skip:
                    skipped.append(skip)
                except BaseException as error:
                    error.add_note(f"in the case {label or ', '.join(f'{key}={value!r}' for key, value in case.items())}")
                    raise
            if len(skipped) == len(cases_as_tuples):
                raise skipped[0]

        signature = inspect.signature(test)
        remaining = [parameter for name, parameter in signature.parameters.items() if name not in arguments]
        run.__signature__ = signature.replace(parameters=remaining)  # type: ignore[attr-defined]
        return run

    return decorate
