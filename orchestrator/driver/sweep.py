"""Runs a training function of the user over a space of arguments."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

from pruneyard.orchestrator.driver.run import run
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.progress.display import Display
from pruneyard.orchestrator.results import Results
from pruneyard.orchestrator.spec.codec import short_json
from pruneyard.orchestrator.spec.yaml_document import plain
from pruneyard.reports.location import Location
from pruneyard.workloads.user_code.errors import UserCodeError
from pruneyard.workloads.user_code.identity import identity_name
from pruneyard.workloads.user_code.references import is_reference
from pruneyard.workloads.user_code.registration import register

_SAMPLED = ({"low", "high"}, {"choices"})
"""Keys by which a value of a space is one that a search samples."""


def sweep(
    function: Callable[..., Any] | str,
    space: Mapping[str, Any] | None = None,
    *,
    seeds: int | Sequence[int] = 1,
    search: str | Mapping[str, Any] | None = None,
    scheduler: str | Mapping[str, Any] | None = None,
    resources: Mapping[str, Any] | None = None,
    out: str | PathLike[str] | Location | None = None,
    arguments: Mapping[str, Any] | None = None,
    steps: int = 0,
    version: str = "",
    name: str | None = None,
    address: str = "local",
    local: bool = False,
    fail_fast: bool = False,
    add: bool = False,
    verbose: bool | None = None,
    display: Display | None = None,
) -> Results:
    """Runs a training function with every combination of arguments and seeds that `out` does not hold as finished.

    >>> def train(lr, momentum=0.0, context=None):
    ...     weight, velocity = 1.0, 0.0
    ...     for epoch in range(1, 6):
    ...         velocity = momentum * velocity + weight
    ...         weight -= lr * velocity
    ...         context.report(step=epoch, train_loss=weight**2, accuracy=1 - abs(weight))
    >>> results = pruneyard.sweep(train, {"lr": [0.1, 0.5], "momentum": 0.5}, seeds=2, out="out/train", local=True)
    >>> results.summary()[["method", "arguments.lr", "num_seeds"]]
      method  arguments.lr  num_seeds
    0  train           0.1          2
    1  train           0.5          2

    The function may return metrics instead of reporting them. If it has an argument `context`, it gets a
    `pruneyard.FunctionContext`; if it has an argument `seed`, the seed.

    Args:
        function: a function; a reference, `package.module:name` or `path/file.py:name`; or the command of a script, such as
            `python train.py --lr {lr} --seed {seed}`. A function of a notebook or of the script that calls this is sent to
            workers by value. Its runs are found again if it is handed over again unchanged, but other processes, such as
            `pruneyard resume`, cannot run it.
        space: for each argument a list, range or array of values, all of which are run; a distribution for the search,
            `{low, high, log, int}` or `{choices: [...]}`; or one value. With a search, a list is a choice.
        seeds: a number (3 means 0, 1, 2) or a list.
        search, scheduler: tables of a spec, or the name alone. A metric without a split is one of `val`.
        resources: what one trial takes.
        out: the results folder; `out/<name>` by default.
        arguments: arguments with one value each, as an alternative to the space.
        steps: the step of the last report, which schedulers and populations need where no argument `steps` or `epochs` tells it.
        version: stands for the source of the function in run keys, which then do not change with it.
        name: of the study; by default that of the function.

    The other arguments, and what is raised, are those of `run`.
    """
    given: tuple[tuple[str, Any], ...] = (("space", space), ("arguments", arguments))
    for key, table in given:
        if table is not None and not isinstance(table, Mapping):
            rule = 'it must be a table of arguments, such as {"lr": [0.1, 0.01]}'
            raise UsageError(f"{key}: is {short_json(table)}; {rule}")
    tables: dict[str, Any] = {"kind": "function", "seeds": seeds, "steps": steps, "version": version}
    tables |= _code(function)
    tables["name"] = name or _name_of(function)
    space = plain(space or {}, "space")
    grid, sampled, constants = _parts(space, is_searched=search is not None)
    tables["arguments"] = {**(arguments or {}), **constants}
    if twice := [key for key in arguments or {} if key in space]:
        raise UsageError(f"arguments.{twice[0]}: is in the space too; it must be in one of the two")
    tables["grid"] = {f"arguments.{key}": values for key, values in grid.items()}
    if search is not None:
        table = _with_split({"name": search} if isinstance(search, str) else dict(search))
        own = {f"arguments.{key}": values for key, values in sampled.items()}
        tables["search"] = {**table, "space": {**own, **table.get("space", {})}}
    if scheduler is not None:
        tables["scheduler"] = _with_split(
            {"name": scheduler} if isinstance(scheduler, str) else dict(scheduler)
        )
    if resources is not None:
        tables["resources"] = dict(resources)
    return run(
        tables,
        out,
        address=address,
        local=local,
        fail_fast=fail_fast,
        add=add,
        verbose=verbose,
        display=display,
    )


def _code(function: Callable[..., Any] | str) -> dict[str, str]:
    if isinstance(function, str):
        return {"function" if is_reference(function) else "command": function}
    try:
        return {"function": register(function)}
    except UserCodeError as error:
        raise UsageError(f"function: {error}") from error


def _name_of(function: Callable[..., Any] | str) -> str:
    """Returns the name of a study: that of the function, or of the script that a command names."""
    if not isinstance(function, str):
        return function.__name__.strip("<>")
    if is_reference(function):
        return identity_name(function).rpartition(":")[2].rpartition(".")[2]
    scripts = [word for word in function.split() if word.endswith(".py")]
    return (scripts or function.split() or ["sweep"])[0].rpartition("/")[2].removesuffix(".py")


def _parts(
    space: Mapping[str, Any], *, is_searched: bool
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns axes, distributions and constants of a space. Raises `UsageError` for a distribution without a search."""
    grid: dict[str, Any] = {}
    sampled: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    for key, value in space.items():
        if isinstance(value, Mapping) and any(keys <= value.keys() for keys in _SAMPLED):
            if not is_searched:
                raise UsageError(
                    f"space.{key}: is {value}, which a search samples; give one, such as "
                    "search={'name': 'random', 'max_trials': 20}, or a list of values"
                )
            sampled[key] = value
        elif isinstance(value, list):
            (sampled if is_searched else grid)[key] = {"choices": value} if is_searched else value
        else:
            constants[key] = value
    return grid, sampled, constants


def _with_split(table: dict[str, Any]) -> dict[str, Any]:
    """Returns a table of a search or scheduler with `val/` before metrics without a split, as in what functions report."""
    metric = table.get("metric")
    return {**table, "metric": f"val/{metric}"} if isinstance(metric, str) and "/" not in metric else table
