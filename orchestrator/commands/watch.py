"""`pruneyard watch`: serves the page of results on this machine, and updates it while a study runs."""

import time
from collections.abc import Sequence

import click

from pruneyard.orchestrator.commands.report import check_folders
from pruneyard.orchestrator.errors import UsageError
from pruneyard.reports.location import Location
from pruneyard.reports.serving import HOST, LivePage, PageServer

EVERY_S = 2.0
"""Seconds between two looks at whether the study has ended."""
FAREWELL_S = 10.0
"""Seconds for which the last page stays available after the end, so that an open page can load it."""


def execute(folders: Sequence[Location], port: int, once_done: bool) -> int:
    """Serve the page of DIR on 127.0.0.1 until Ctrl-C, or with --once-done until the study has ended."""
    page = LivePage(check_folders(folders))
    page.current()  # what cannot be read fails here
    try:
        server = PageServer(page, port=port)
    except OSError as error:
        raise UsageError(f"--port {port}: cannot listen on {HOST}:{port}: {error.strerror}") from error
    click.echo(server.address)
    try:
        while not (once_done and page.has_ended()):
            time.sleep(EVERY_S)
        while not page.is_newest:
            time.sleep(EVERY_S)
            page.current()
        time.sleep(FAREWELL_S)
    except KeyboardInterrupt:
        click.echo("pruneyard: stopped serving", err=True)
    finally:
        server.close()
    return 0
