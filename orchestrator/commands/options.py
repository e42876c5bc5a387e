"""Types of values on the command line, and options that several verbs share; imports nothing that is slow to load."""

import difflib
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

import click
from click.shell_completion import CompletionItem

from pruneyard.orchestrator.spec.packaged import packaged_specs
from pruneyard.reports.location import Location, located


class LocationType(click.ParamType[Location]):
    """A path, or the URI of a place in an object store."""

    name = "path"

    def __init__(self, *, completes: str) -> None:
        self._completes = completes  # `dir` or `file`: what the shell offers

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        try:
            return located(value if isinstance(value, str) else str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type=self._completes)]


FOLDER, FILE = LocationType(completes="dir"), LocationType(completes="file")


class SpecType(click.ParamType[str]):
    """A YAML file or the name of a packaged spec; the shell completes both."""

    name = "spec"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        named = [CompletionItem(name) for name in packaged_specs() if name.startswith(incomplete)]
        return [*named, CompletionItem(incomplete, type="file")]


class NamedChoice(click.Choice[str]):
    """One of some names; a message about another word says which name is near."""

    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:
        """Returns click's message with the nearest name."""
        close = difflib.get_close_matches(str(value), list(self.choices), n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return super().get_invalid_choice_message(value, ctx) + hint


class AgeType(click.ParamType[timedelta]):
    """A time span: a number and h (hours), d (days) or w (weeks)."""

    name = "age"
    units: ClassVar = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        span: timedelta = _measure(self, value, self.units, "a number with h, d or w, as in 12h, 90d or 4w", param, ctx)
        return span


class SizeType(click.ParamType[float]):
    """A size in bytes: a number and MB, GB or TB, or KiB, MiB and so on."""

    name = "size"
    units: ClassVar = {
        prefix + unit: base ** (power + 1)
        for power, prefix in enumerate("kMGT")
        for unit, base in (("B", 1000), ("iB", 1024))
    } | {"B": 1}

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        size_bytes: float = _measure(self, value, self.units, "a number with kB, MB, GB or TB, as in 20GB", param, ctx)
        return size_bytes


def _measure(
    kind: click.ParamType[Any],
    value: object,
    units: Mapping[str, Any],
    allowed: str,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> Any:
    """Returns the number in `value` times its unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", str(value))
    if match is None or match[2] not in units:
        kind.fail(f"{value} must be {allowed}", param, ctx)
    return float(match[1]) * units[match[2]]


class BatchSizes(click.ParamType[tuple[int, ...]]):
    """A comma-separated list of positive whole numbers."""

    name = "N,N"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        try:
            sizes = tuple(dict.fromkeys(int(part) for part in str(value).split(",")))
        except ValueError:
            sizes = ()
        if not sizes or min(sizes) < 1:
            self.fail(f"{value} must be whole numbers of at least 1, as in 1,128", param, ctx)
        return sizes


def option(*names: str, **settings: Any) -> click.Option:
    """Returns an option, as the decorator `click.option` would add it."""
    return click.Option(names, **settings)


def argument(name: str, **settings: Any) -> click.Argument:
    """Returns an argument, as the decorator `click.argument` would add it."""
    return click.Argument([name], **settings)


def spec_argument(name: str = "spec", **settings: Any) -> click.Argument:
    return argument(name, type=SpecType(), **settings)


def folder_argument() -> click.Argument:
    return argument("folder", metavar="DIR", type=FOLDER)


def job_argument() -> click.Argument:
    return argument("job_id", metavar="JOB")


def spec_options() -> list[click.Option]:
    """Returns the options that change a spec."""
    return [
        option("--set", "sets", multiple=True, metavar="K=V", help="Set any dotted key of the spec."),
        option("--axis", "axes", multiple=True, metavar="K=V1,V2", help="Add an axis to the grid."),
        option("--plugin", "plugins", multiple=True, metavar="FILE", type=click.Path(), help="Add a file of a plug-in."),
    ]


def study_options() -> list[click.Option]:
    """Returns the options of the verbs that run a study."""
    return [
        cluster_option(),
        option("--local", is_flag=True, help="Without Ray, in this process; same numbers."),
        option("--fail-fast", is_flag=True, help="Stop all when the first job fails."),
        option("--no-report", is_flag=True, help="Write no report.html; `pruneyard report DIR` writes it later."),
    ]


def cache_options() -> list[click.Option]:
    """Returns the options that name caches of finished runs."""
    cache = option("--cache", metavar="DIR", type=FOLDER, help="Take finished runs from this cache, and add those of this study.")
    only_read = option(
        "--cache-from",
        metavar="DIR",
        multiple=True,
        type=FOLDER,
        help="Take finished runs from this cache or folder of results; repeat for more.",
    )
    return [cache, only_read]


def out_option() -> click.Option:
    return option("--out", type=FOLDER, help="Folder of results [default: out/NAME].")


def cluster_option() -> click.Option:
    return option("--address", default="local", show_default=True, help="Ray cluster to join.")


def server_option(*, names_job: bool = True) -> click.Option:
    """Returns `--address` of the job server.

    names_job: whether the verb takes a job, whose address is known on the machine that submitted it.
    """
    of_job = "where JOB was submitted to, " if names_job else ""
    return option(
        "--address",
        envvar="PRUNEYARD_ADDRESS",
        metavar="URL",
        help=f"Job server of the cluster [default: $PRUNEYARD_ADDRESS, {of_job}or the address of the last submission].",
    )


def json_option() -> click.Option:
    return option("--json", "as_json", is_flag=True, help="Machine-readable output on stdout.")
