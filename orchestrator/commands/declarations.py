"""Declares arguments, options and help of every verb. The module that carries out a verb is imported when it is called.

So help, completion and messages about wrong options need none of the libraries that a verb works with.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class

from pruneyard.orchestrator.commands import result_verbs
from pruneyard.orchestrator.commands.cache_verbs import cache_verbs
from pruneyard.orchestrator.commands.claims_verb import claims_verb
from pruneyard.orchestrator.commands.options import (
    FOLDER,
    BatchSizes,
    NamedChoice,
    argument,
    cache_options,
    cluster_option,
    folder_argument,
    job_argument,
    json_option,
    option,
    out_option,
    server_option,
    spec_argument,
    spec_options,
    study_options,
)
from pruneyard.orchestrator.spec.packaged import template_names


def declared(verb: str) -> click.Command:
    """Returns the command of a verb."""
    return _DECLARATIONS[verb]()


def _command(verb: str, parameters: Sequence[click.Parameter], help: str, *, epilog: str | None = None) -> click.Command:
    """Returns a command that calls `execute` of the verb's module with the values of its parameters."""

    def call(**values: Any) -> int:
        # With a cache there is something to do even then: its runs are added.
        if verb in ("run", "resume") and values["cache"] is None and (code := _of_finished_study(verb, values)) is not None:
            return code
        module = importlib.import_module(f"pruneyard.orchestrator.commands.{verb}")
        return int(module.execute(**values))

    return click.Command(verb, params=list(parameters), callback=call, help=help, epilog=epilog)


def _of_finished_study(verb: str, values: dict[str, Any]) -> int | None:
    """Answers `run` or `resume` if the study is finished; returns None after saying that it has to be planned."""
    from pruneyard.orchestrator.commands.again import resume_again, run_again

    code = run_again(**values) if verb == "run" else resume_again(**values)
    if code is None:
        click.echo(f"pruneyard: reading {values['spec' if verb == 'run' else 'folder']}", err=True)
    return code


def _init() -> click.Command:
    path = argument("path", type=click.Path(path_type=Path), default="sweep.yaml")
    template = option("--template", type=NamedChoice(template_names()), help="What the spec is about [default: sparse].")
    network = option("--from", "network", metavar="FILE:NAME", help="A network of your own, as in my_model.py:Net.")
    data = option("--data", metavar="NAME[:PATH]", help="With --from, its data, as in table:rows.csv [default: digits].")
    text = "Write a spec to start from to PATH [default: sweep.yaml], and the files that it reads; existing files are left alone."
    return _command("init", [path, template, network, data], text)


def _list() -> click.Command:
    from pruneyard.orchestrator.commands.list import TOPICS

    topic = argument("topic", type=NamedChoice(list(TOPICS)), required=False)
    return _command("list", [topic, json_option()], "List one TOPIC with summaries and references, or the names of all.")


def _schema() -> click.Command:
    tables = option("--tables", is_flag=True, help="The Parquet tables' columns instead, as Markdown.")
    text = "Print the JSON Schema; in an editor: `# yaml-language-server: $schema=FILE` on a spec's first line."
    return _command("schema", [tables], text)


def _plan() -> click.Command:
    text = "Validate SPEC, list its jobs as finished, failed or missing, and estimate the cost of what is left."
    return _command("plan", [spec_argument(), out_option(), *spec_options(), *cache_options(), json_option()], text)


def _run() -> click.Command:
    add = option("--add", is_flag=True, help="Also into a folder with the unfinished study of another spec.")
    text = """Run what is missing of SPEC, a YAML file or the name of a packaged spec.

    A second call repairs and never repeats: finished jobs are kept, failed and interrupted ones run again.
    """
    parameters = [spec_argument(), out_option(), *spec_options(), *study_options(), add, *cache_options(), json_option()]
    return _command("run", parameters, text)


def _resume() -> click.Command:
    text = "Resume DIR: run what is missing, interrupted or failed, from the newest checkpoints."
    return _command("resume", [folder_argument(), *study_options(), *cache_options(), json_option()], text)


def _retry() -> click.Command:
    only = option("--only", type=click.Choice(["failed", "interrupted", "pruned"]), help="Only these.")
    text = """Run the FAILED and INTERRUPTED jobs of DIR again, but not jobs that have never started.

    With --only pruned, jobs that were stopped early resume and run to their end.
    """
    return _command("retry", [folder_argument(), only, *study_options(), json_option()], text)


def _latency() -> click.Command:
    from pruneyard.workloads.plugins import names

    parameters = [
        folder_argument(),
        option(
            "--run-key",
            "run_keys",
            metavar="K",
            multiple=True,
            help="A run, by its key or the first 8 digits of it; repeat for more [default: see --all-seeds].",
        ),
        option("--all-seeds", is_flag=True, help="Every finished run, not only the first seed of each setting."),
        option(
            "--format",
            "chosen",
            multiple=True,
            type=click.Choice(names("deploy.formats")),
            help="A format; repeat for more [default: all].",
        ),
        option("--batch-size", "batch_sizes", type=BatchSizes(), default="1,128", show_default=True),
        option("--threads", type=click.IntRange(min=1), default=1, show_default=True),
        json_option(),
    ]
    text = """Measure the networks of DIR in every format against dense kernels, and store the numbers with the results.

    Use a machine that runs nothing else. Each network takes a few seconds per format and batch size.
    """
    return _command("latency", parameters, text)


def _evaluate() -> click.Command:
    from pruneyard.workloads.plugins import names

    parameters = [
        argument("files", metavar="FILE...", nargs=-1, required=True),
        option(
            "--calibrator",
            "calibrators",
            multiple=True,
            type=click.Choice([name for name in names("calibrate.methods") if name != "none"]),
            help="Also after this calibrator; repeat for more. Without a column of splits, rows are cut into calib and test.",
        ),
        option("--positive", metavar="CLASS", help="Positive class of a binary problem, for metrics of its probability."),
        option("--num-bins", type=click.IntRange(min=1), default=15, show_default=True, help="Of metrics with bins."),
        option("--set", "sets", multiple=True, metavar="K=V", help="Set a key of `input`, as in columns.label=y."),
        json_option(),
    ]
    text = """Print the metrics of the outputs in FILE: .csv, .parquet or .npz with logits or probabilities and labels.

    The rows are the split test, or all rows if no column names splits. Nothing is stored; for a report, run a spec of kind
    calibrate on the same file.
    """
    return _command("evaluate", parameters, text)


def _explain() -> click.Command:
    subject = spec_argument("subject", metavar="RUN_KEY|SPEC")
    text = "Show what is known about RUN_KEY (in --out DIR), or why each job of SPEC would run or not, field by field."
    return _command("explain", [subject, out_option(), *spec_options()], text)


def _submit() -> click.Command:
    parameters = [
        spec_argument(),
        server_option(names_job=False),
        option("--out", metavar="DIR", help="As the cluster sees it [default: NAME in the cluster's $PRUNEYARD_OUT]."),
        *spec_options(),
        *cache_options(),
        option("--follow", is_flag=True, help="Show the log, and exit as the job does."),
        option(
            "--pin",
            type=click.Choice(["check", "none"]),
            default="check",
            show_default=True,
            help="Versions of this machine: refuse others there, or take what is there.",
        ),
        option(
            "--python",
            metavar="PATH",
            help="Interpreter on the cluster [default: the first of python, this machine's, python3 with the packages].",
        ),
    ]
    text = "Submit SPEC and print the job's name. Submitting again resumes what is missing, and never runs a study twice at once."
    return _command("submit", parameters, text)


def _status() -> click.Command:
    job = argument("job_id", metavar="[JOB]", required=False, default="")
    text = "List the jobs of a cluster, or show JOB with the last line of its log."
    return _command("status", [job, server_option(), json_option()], text)


def _logs() -> click.Command:
    text = "Until the job ends; exit as it does. Ctrl-C only stops following."
    follow = option("-f", "--follow", is_flag=True, help=text)
    return _command("logs", [job_argument(), server_option(), follow], "Print the log of JOB.")


def _wait() -> click.Command:
    timeout = option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Seconds; then exit with 124.")
    return _command("wait", [job_argument(), server_option(), timeout], "Wait for JOB and exit as it did.")


def _stop() -> click.Command:
    help = "Seconds to wait for its checkpoints."
    grace = option("--grace", type=click.FloatRange(min=0), default=120.0, show_default=True, metavar="S", help=help)
    text = "Stop JOB gracefully: running trials write a checkpoint and end as INTERRUPTED. Submit again to resume."
    return _command("stop", [job_argument(), server_option(), grace], text)


def _kill() -> click.Command:
    text = "End JOB at once. Finished trials and checkpoints already written are kept; submit again to resume."
    return _command("kill", [job_argument(), server_option()], text)


def _manifest() -> click.Command:
    from pruneyard.cluster.manifests.rendering import FORMATS, JOBS
    from pruneyard.orchestrator.remote.profiles import packaged_profiles

    parameters = [
        argument("profile", metavar="PROFILE"),
        option("--format", "form", type=click.Choice(FORMATS), required=True, help="What is to start the cluster."),
        option("--spec", metavar="SPEC", help=f"The study to run; needed by {', '.join(JOBS)}."),
        option("--set", "sets", multiple=True, metavar="K=V", help="Set any dotted key of the profile."),
        option("--out", type=click.Path(path_type=Path), help="A file instead of stdout."),
    ]
    epilog = f"PROFILE is a YAML file, or one of the packaged profiles {', '.join(packaged_profiles())}."
    return _command("manifest", parameters, "Render PROFILE in one format; nothing is contacted.", epilog=epilog)


def _doctor() -> click.Command:
    parameters = [
        argument("folder", metavar="[DIR]", required=False, type=FOLDER),
        option("--repair", is_flag=True, help="Restore the rows of damaged and deleted tables of DIR from its records."),
        cluster_option(),
        option(
            "--out",
            type=FOLDER,
            help="Folder of results that every node must see [default: $PRUNEYARD_OUT; here: this folder].",
        ),
    ]
    text = """Check Python, torch, devices, storage and Ray; with --address a cluster, on every node.

    With DIR, verify that folder of results instead: every table, record, artifact and checkpoint against its checksum.
    """
    return _command("doctor", parameters, text)


def _completion() -> click.Command:
    def call(shell: str) -> int:
        context = click.get_current_context()
        script = get_completion_class(shell)
        assert script is not None
        click.echo(script(context.find_root().command, {}, "pruneyard", "_PRUNEYARD_COMPLETE").source())
        return 0

    shell = argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    text = 'Print the completion script; put `eval "$(pruneyard completion bash)"` into ~/.bashrc.'
    return click.Command("completion", params=[shell], callback=call, help=text)


_DECLARATIONS: dict[str, Callable[[], click.Command]] = {
    "init": _init,
    "list": _list,
    "schema": _schema,
    "plan": _plan,
    "run": _run,
    "resume": _resume,
    "retry": _retry,
    "report": result_verbs.report,
    "watch": result_verbs.watch,
    "compare": result_verbs.compare,
    "analyze": result_verbs.analyze,
    "claims": claims_verb,
    "figure": result_verbs.figure,
    "export": result_verbs.export,
    "latency": _latency,
    "evaluate": _evaluate,
    "explain": _explain,
    "submit": _submit,
    "status": _status,
    "logs": _logs,
    "wait": _wait,
    "stop": _stop,
    "kill": _kill,
    "manifest": _manifest,
    "doctor": _doctor,
    "cache": cache_verbs,
    "completion": _completion,
}
