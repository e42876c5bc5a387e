"""Declares the verbs `ls`, `explain`, `verify` and `prune` below `pruneyard cache`."""

import importlib
from collections.abc import Sequence
from typing import Any

import click

from pruneyard.orchestrator.commands.options import (
    AgeType,
    SizeType,
    argument,
    folder_argument,
    json_option,
    option,
)


def cache_verbs() -> click.Group:
    """Returns the verbs below `cache`; each calls the function of its name in `commands.cache`."""
    key = argument("run_key", metavar="RUN_KEY")
    dry_run = option("--dry-run", is_flag=True, help="Only list what would be removed.")
    age = option("--older-than", type=AgeType(), metavar="AGE", help="Remove runs that ended longer ago, as in 90d, 12h or 4w.")
    size = option("--max-size", type=SizeType(), metavar="SIZE", help="Remove the oldest until the rest is smaller, as in 20GB.")
    verbs = [
        _action("ls", [folder_argument(), json_option()], "List the finished runs in a cache, the newest first."),
        _action("explain", [folder_argument(), key], "Show what RUN_KEY, or the first 8 digits of it, is and rests on."),
        _action("verify", [folder_argument()], "Read every file of DIR against its digest; exit with 1 if one is damaged."),
        _action(
            "prune",
            [folder_argument(), age, size, dry_run],
            "Remove runs by age or size, but none that a kept run was made from.",
        ),
    ]
    text = "List, explain, verify or prune a cache of finished runs, which `run --cache DIR` fills."
    return click.Group("cache", commands={str(verb.name): verb for verb in verbs}, help=text)


def _action(name: str, parameters: Sequence[click.Parameter], help: str) -> click.Command:
    def call(**values: Any) -> int:
        module = importlib.import_module("pruneyard.orchestrator.commands.cache")
        return int(getattr(module, name)(**values))

    return click.Command(name, params=list(parameters), callback=call, help=help)
