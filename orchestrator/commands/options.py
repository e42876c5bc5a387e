"""Options that several commands share, and the type of paths and URIs on the command line."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from pruneyard.orchestrator.spec.overrides import parse_assignment, parse_axis
from pruneyard.reports.location import Location, located


class LocationType(click.ParamType[Location]):
    """A path, or the URI of a place in an object store."""

    name = "path"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        try:
            return located(value if isinstance(value, str) else str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


LOCATION = LocationType()


def spec_changes(sets: Sequence[str], axes: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Returns the keyword arguments of `load_spec` for the options `--set` and `--axis`."""
    return {
        "overrides": dict(parse_assignment(text, option="--set") for text in sets),
        "axes": dict(parse_axis(text) for text in axes),
    }


set_option = click.option("--set", "sets", multiple=True, metavar="K=V", help="Set any dotted key of the spec.")
axis_option = click.option("--axis", "axes", multiple=True, metavar="K=V1,V2", help="Add an axis to the grid.")
out_option = click.option("--out", type=LOCATION, help="Folder of results [default: out/NAME].")
address_option = click.option("--address", default="local", show_default=True, help="Ray cluster to join.")
local_option = click.option("--local", is_flag=True, help="Without Ray, in this process; same numbers.")
fail_fast_option = click.option("--fail-fast", is_flag=True, help="Stop all when the first job fails.")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output on stdout.")
