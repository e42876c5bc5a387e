"""Folders and files on the command line: paths and URIs, by one rule for all verbs."""

import click

from reports.location import Location, located


class PlaceType(click.ParamType[Location]):
    """A path, or the URI of a place in an object store."""

    name = "path"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        try:
            return located(value if isinstance(value, str) else str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


PLACE = PlaceType()
