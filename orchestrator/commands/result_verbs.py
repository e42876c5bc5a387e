"""Declares the verbs that read a folder of results: `report`, `watch`, `compare`, `figure` and `export`."""

import importlib
from collections.abc import Sequence
from typing import Any

import click

from pruneyard.orchestrator.commands.options import (
    FILE,
    FOLDER,
    NamedChoice,
    argument,
    folder_argument,
    json_option,
    option,
)

ANALYSES = ("importance", "aggregates", "profile", "time-to-target", "variance", "front", "hypervolume")
TRACKERS = ("tensorboard", "mlflow", "wandb")
TABLE_FORMATS = ("csv", "md", "markdown", "latex", "html")


def _command(verb: str, parameters: Sequence[click.Parameter], help: str) -> click.Command:
    """Returns a command that calls `execute` of the verb's module with the values of its parameters."""

    def call(**values: Any) -> int:
        module = importlib.import_module(f"pruneyard.orchestrator.commands.{verb}")
        return int(module.execute(**values))

    return click.Command(verb, params=list(parameters), callback=call, help=help)


def _pool_option() -> click.Option:
    help = "A setting in which runs may differ and still count together, such as batch_size or num_workers; repeat for more."
    return option("--pool", metavar="KEY", multiple=True, help=help)


def report() -> click.Command:
    """Returns the command `report`."""
    folders = argument("folders", metavar="DIR...", nargs=-1, required=True, type=FOLDER)
    out = option("--out", type=FILE, help="The page [default: report.html in the first DIR].")
    budget = option("--budget", metavar="KIND=N", help="Show what all runs had after equal steps, epochs, time (in s) or flops.")
    text = "Render the results of one or more folders as one self-contained HTML page."
    return _command("report", [folders, budget, _pool_option(), out], text)


def watch() -> click.Command:
    """Returns the command `watch`."""
    folders = argument("folders", metavar="DIR...", nargs=-1, required=True, type=FOLDER)
    port = option("--port", type=click.IntRange(0, 65535), default=0, help="A port of this machine [default: any free one].")
    once_done = option("--once-done", is_flag=True, help="End by itself when no planned run is missing or interrupted.")
    text = "Serve the page of DIR on 127.0.0.1 and print its address. An open page updates while a study runs."
    return _command("watch", [folders, port, once_done], text)


def compare() -> click.Command:
    """Returns the command `compare`."""
    parameters = [
        argument("folders", metavar="DIR...", nargs=-1, required=True, type=FOLDER),
        option(
            "--baseline",
            "baselines",
            metavar="K=V",
            multiple=True,
            help="What others are compared with, by columns of the summary [default: method static, random, none or plain, else "
            "plain gradients, else cross-entropy].",
        ),
        option(
            "--metric",
            "metrics",
            metavar="SPLIT/NAME",
            multiple=True,
            help="Repeat for more [default: the first one of the summary].",
        ),
        option("--where", "wheres", metavar="K=V", multiple=True, help="Only settings with this value; repeat for more."),
        option(
            "--gate",
            "gates",
            metavar="EXPR",
            multiple=True,
            help="A condition for every setting, as in 'test/accuracy >= baseline - 0.005', or on the end of an interval, as in "
            "'lower(test/accuracy) >= baseline - 0.005'; exit code 5 if it fails.",
        ),
        option("--budget", metavar="KIND=N", help="What all had after equal steps, epochs, time (s) or flops, as in epochs=5."),
        _pool_option(),
        option("--margin", type=float, metavar="D", help="A difference that does not matter; tests equivalence within it."),
        option("--format", "form", type=click.Choice(TABLE_FORMATS), help="Print it in this format."),
        json_option(),
    ]
    text = """Compare every setting of DIR with a baseline: differences paired by seed, with 95% intervals.

    A setting is compared with the baseline that agrees with it in all other columns, such as the density. The p-value is that of
    the paired t test, corrected for all rows (Holm).
    """
    return _command("compare", parameters, text)


def analyze() -> click.Command:
    """Returns the command `analyze`."""
    parameters = [
        argument("folders", metavar="DIR...", nargs=-1, required=True, type=FOLDER),
        option("--kind", required=True, type=NamedChoice(ANALYSES), help="What to analyze."),
        option("--metric", metavar="SPLIT/NAME", help="[default: the first one of the summary]"),
        option("--target", type=float, help="Of time-to-target [default: what the baseline reaches]."),
        option("--cost", metavar="NAME", help="Of time-to-target: epochs, steps, time, flops; of front, hypervolume: a column."),
        option("--evaluator", metavar="NAME", help="Of importance: fanova [default] or ped_anova."),
        option("--format", "form", type=click.Choice(TABLE_FORMATS), help="Print it in this format [default: md]."),
    ]
    text = """Print one analysis of DIR as a table.

    Kinds: importance of hyperparameters (needs Optuna), aggregates over densities and data sets, performance profile,
    time-to-target with runs that never reach it, variance by level of nested repetitions, Pareto front, and hypervolume.
    """
    return _command("analyze", parameters, text)


def figure() -> click.Command:
    """Returns the command `figure`."""
    parameters = [
        folder_argument(),
        argument("chart", required=False, metavar="[CHART]"),
        option("--kind", metavar="CHART", help="The same as the argument CHART."),
        option("--metric", metavar="SPLIT/NAME", help="Of the charts that show any one metric: density, ipc, cost and others."),
        option("--out", type=FILE, required=True, help="The file; its ending chooses the format: .svg, .pdf or .png."),
    ]
    text = """Write one chart of DIR to a file, for papers and slides.

    CHART is density, ipc, schedules, distillation, learning, losses, reliability, layers, cost, latency, time-to-target, pareto,
    profile or importance [default: the first of these that the study has data for].
    """
    return _command("figure", parameters, text)


def export() -> click.Command:
    """Returns the command `export`."""
    from pruneyard.workloads.plugins import names

    parameters = [
        folder_argument(),
        option(
            "--format",
            "form",
            type=click.Choice([*TABLE_FORMATS, *TRACKERS, *names("deploy.formats")]),
            help="Of a table: csv [default], md, latex, html. Of all runs, for a tracker: tensorboard, mlflow, wandb. With "
            "--network: dense [default] or one of the others.",
        ),
        option(
            "--table",
            type=click.Choice(["summary", "runs", "metrics", "curves", "latency"]),
            help="A table [default: summary].",
        ),
        option("--columns", metavar="C,C", help="Columns of the summary, in this order [default: all]."),
        option("--network", metavar="RUN_KEY", help="The network of a finished run instead of a table."),
        option("--out", type=FILE, help="A file instead of stdout; needed with --network, and as a folder for trackers."),
    ]
    text = """Print one table of DIR, write all of its runs for another tracker, or the network of one of them to a file.

    Trackers' files are written by their own packages: `pip install 'pruneyard[tensorboard]'`, `[mlflow]` or `[wandb]`.

    A network is written only after the exported one gave the outputs of the dense one.
    """
    return _command("export", parameters, text)
