"""The program that takes the place of a driver whose Ray cluster is lost: says why, and prints what is finished."""

import sys

import click

from pruneyard.orchestrator.errors import ExitCode


def main() -> None:
    """Prints the message and the results of the folder, both given on the command line, and how to resume."""
    folder, with_page, as_json, message = sys.argv[1:]
    if sys.stderr.isatty():
        click.echo("\x1b[?25h", err=True, nl=False)  # a live table hides the cursor
    click.echo(f"pruneyard: {message}", err=True)
    # Only now: the imports take seconds.
    from pruneyard.orchestrator.commands.run import print_results
    from pruneyard.orchestrator.commands.start_folder import spec_of
    from pruneyard.orchestrator.planning.plan import make_plan
    from pruneyard.orchestrator.results import Results
    from pruneyard.reports.layout import RunFolder
    from pruneyard.reports.location import located

    place = located(folder)
    plan = make_plan(spec_of(place), RunFolder(place))
    print_results(Results(place), plan, code=ExitCode.UNREACHABLE, with_page=with_page == "1", as_json=as_json == "1")
    sys.exit(ExitCode.UNREACHABLE)
