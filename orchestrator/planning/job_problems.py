"""Finds the key of a spec that the check of a job complains about."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pruneyard.orchestrator.errors import Problem
from pruneyard.orchestrator.spec.codec import hints_of
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.load import Spec
from pruneyard.orchestrator.spec.problem_log import join_keys

_SUBJECT = re.compile(r"(\w+)((?:\.\w+|\[\d+\])*)(?: (?=(?:is|has|takes|needs|changes|resumes) )|: )(.*)", flags=re.DOTALL)
"""A message about a key begins with it: `density is 2; ...`, `initial.reset[0] is ...`, `initial: FILE lacks ...`."""


def job_problems(complaints: Iterable[tuple[Job, str]], spec: Spec) -> list[Problem]:
    """Returns a problem for each complaint about jobs of a spec, with its key and line where the message tells them.

    Jobs with the same complaint about a key make one problem, which names the first of them.
    """
    without_key: dict[tuple[str, str], Problem] = {}
    placed: dict[tuple[str | None, str, str], list[str]] = {}
    for job, message in complaints:
        key, rest = key_of_message(job.workload, message)
        label = job.label.rpartition(" seed=")[0]
        if key:
            placed.setdefault((job.stage, key, rest), []).append(label)
        else:
            without_key.setdefault((label, message), Problem(0, label, message))
    problems = list(without_key.values())
    for (stage, key, rest), labels in placed.items():
        problems.append(spec.problem_at(key, f"{rest} (in {_listed(labels)})", stage=stage))
    return problems


def key_of_message(workload: Any, message: str) -> tuple[str, str]:
    """Returns the dotted key of a job that a message begins with, and the rest of it; the key is empty where it has none.

    A table reports its own field without saying where it stands in the job, so a field is also sought in the nested tables.
    """
    match = _SUBJECT.match(message)
    if match is None:
        return "", message
    if match[1] in hints_of(type(workload)):
        return match[1] + match[2], match[3]
    places = list(_places_of(match[1], workload, ""))
    return (places[0] + match[2], match[3]) if len(places) == 1 else ("", message)


def _places_of(field: str, table: Any, key: str) -> Iterator[str]:
    """Yields the dotted key of every field of this name in a table and those nested in it."""
    if isinstance(table, tuple):
        for place, item in enumerate(table):
            yield from _places_of(field, item, f"{key}[{place}]")
    elif dataclasses.is_dataclass(table) and not isinstance(table, type):
        for name in hints_of(type(table)):
            if name == field:
                yield join_keys(key, name)
            yield from _places_of(field, getattr(table, name), join_keys(key, name))


def _listed(labels: Sequence[str]) -> str:
    others = len(labels) - 1
    return labels[0] if not others else f"{labels[0]}, and {others} other job{'s' if others > 1 else ''}"
