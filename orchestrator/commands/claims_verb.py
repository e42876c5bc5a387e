"""Declares `pruneyard claims`."""

import importlib
from typing import Any

import click

from pruneyard.orchestrator.commands.options import FOLDER, argument, json_option, option


def claims_verb() -> click.Command:
    """Returns the verb, which imports what carries it out when it is called."""

    def call(**values: Any) -> int:
        return int(importlib.import_module("pruneyard.orchestrator.commands.claims").execute(**values))

    parameters = [
        argument("folders", metavar="DIR...", nargs=-1, required=True, type=FOLDER),
        option("--method", "methods", metavar="NAME", multiple=True, help="Only claims on it, as in CigL; repeat for more."),
        option("--format", "form", type=click.Choice(["csv", "markdown", "latex"]), help="Print it in this format."),
        json_option(),
    ]
    text = """Say what the runs of DIR show of papers' claims, and print the verdict on each.

    An effect is the difference from the base method, paired by seed. Beside it stands the quantity by which the method works, so
    that a claim that does not appear is told apart from a mechanism that did not act. Runs of the packaged specs NAME-evidence
    speak to the claims on NAME.
    """
    return click.Command("claims", params=parameters, callback=call, help=text)
