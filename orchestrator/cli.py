"""The command `pruneyard`: dispatches to the verbs and turns errors into messages and exit codes."""

import difflib
import io
import logging
import sys
import warnings
from importlib.metadata import version

import click
from click.shell_completion import CompletionItem

from pruneyard.orchestrator.coordination.stop_request import StudyStoppedError
from pruneyard.orchestrator.errors import ClusterError, ExitCode, UsageError
from pruneyard.reports.storage import StorageError

VERBS = {
    "init": "Write an example spec to start from.",
    "list": "List methods, data, models, metrics and packaged specs.",
    "schema": "Print the JSON Schema of specs, for editors.",
    "plan": "Validate a spec and list its jobs; writes nothing.",
    "run": "Run the missing jobs of a spec, then write the report.",
    "resume": "Resume a folder of results where it stopped.",
    "retry": "Run a folder's failed and interrupted jobs again.",
    "report": "Render folders of results as one HTML page.",
    "watch": "Serve the page on this machine, updating while a study runs.",
    "compare": "Compare all settings with a baseline, paired by seed; gates for CI.",
    "analyze": "Importances, aggregates, time to a target, variances, fronts.",
    "claims": "Say what runs show of papers' claims, with a verdict for each.",
    "figure": "Write one chart as SVG, PDF or PNG.",
    "export": "Print tables as CSV, Markdown or LaTeX, or write a finished network to a file.",
    "latency": "Measure the latency of finished networks, sparse against dense, on this machine.",
    "evaluate": "Print the metrics of files of logits or probabilities, as they are or calibrated.",
    "explain": "Explain why a job runs again, field by field.",
    "submit": "Submit a spec as a job to a cluster.",
    "status": "List submitted jobs, or show one.",
    "logs": "Print the log of a submitted job.",
    "wait": "Wait for a submitted job and exit with its exit code.",
    "stop": "Stop a submitted job gracefully; checkpoints and finished work are kept.",
    "kill": "Kill a submitted job at once.",
    "manifest": "Print the file that starts a cluster: Kubernetes, ray up, Slurm, SkyPilot.",
    "doctor": "Check this machine, a cluster, or a folder of results.",
    "cache": "List, explain, verify or prune a cache of finished runs.",
    "completion": "Print the shell completion script.",
}


class Verbs(click.Group):
    """A click group that declares a verb on first use, so that help and completion answer at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        # Imported here: a message about an unknown verb, and the completion of verbs, need no declaration.
        from pruneyard.orchestrator.commands.declarations import declared

        return declared(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(VERBS)}"
            ctx.fail(f"No such verb '{args[0]}'; {hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        verbs = [CompletionItem(verb, help=text) for verb, text in VERBS.items() if verb.startswith(incomplete)]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("pruneyard"), prog_name="pruneyard")
def cli() -> None:
    """Run populations of sparse trainings, distillations and calibrations on Ray: one spec in, Parquet and one HTML page out.

    Start with: pruneyard run quickstart
    """


def main() -> None:
    """Runs the command and exits with one of the codes in `ExitCode`."""
    logging.basicConfig(level=logging.WARNING, format="pruneyard: %(message)s", handlers=[_Stderr()])
    # Warnings of libraries are no output of a command, but `python -W` still shows them.
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        # Under LANG=C the ± of the final table would end a finished study with a UnicodeEncodeError.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(_run())


class _Stderr(logging.Handler):
    """Writes to the current `sys.stderr`, which the live table replaces: so lines appear above the table and not in it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _run() -> int:
    try:
        code = cli.main(prog_name="pruneyard", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except UsageError as error:
        click.echo(f"pruneyard: {error}", err=True)
        return ExitCode.USAGE
    except ClusterError as error:
        click.echo(f"pruneyard: {error}", err=True)
        return ExitCode.UNREACHABLE
    except (KeyboardInterrupt, click.Abort):
        click.echo("pruneyard: stopped at once; finished work is kept", err=True)
        return ExitCode.INTERRUPTED
    except ValueError as error:
        from pruneyard.reports.data_record import DifferentDataError
        from pruneyard.reports.parquet import NewerSchemaError  # lazily: --help must not wait for pyarrow

        if not isinstance(error, NewerSchemaError | DifferentDataError):
            raise
        click.echo(f"pruneyard: {error}", err=True)
        return ExitCode.USAGE
    # The order matters from here on: all of these are subclasses of OSError.
    except BrokenPipeError:
        # Python would report the broken pipe again on stderr when it flushes stdout at exit.
        sys.stderr.close()
        return ExitCode.FINISHED
    except StudyStoppedError as error:
        click.echo(f"pruneyard: the study stopped, because of {error}", err=True)
        return ExitCode.PARTIAL
    except StorageError as error:
        click.echo(f"pruneyard: {error}", err=True)
        return ExitCode.USAGE
    except OSError as error:
        click.echo(f"pruneyard: {error.filename or 'storage'}: {error.strerror or error}", err=True)
        return ExitCode.USAGE
    return int(code or 0)
