"""`pruneyard manifest`: renders a profile as a file that starts a cluster."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from pruneyard.cluster.manifests.nodes import Study
from pruneyard.cluster.manifests.rendering import CLUSTERS, JOBS
from pruneyard.cluster.profile import Profile
from pruneyard.orchestrator.errors import ExitCode, UsageError
from pruneyard.orchestrator.remote.profiles import render
from pruneyard.orchestrator.spec.load import load_spec
from pruneyard.orchestrator.spec.overrides import parse_assignment
from pruneyard.reports.durable import write_durably


def execute(profile: str, form: str, spec: str | None, sets: Sequence[str], out: Path | None) -> int:
    """Render PROFILE in one format; nothing is contacted."""
    overrides = dict(parse_assignment(text, option="--set") for text in sets)
    text = render(profile, overrides=overrides, renderer=_renderer(form, spec))
    if out is None:
        click.echo(text, nl=False)
    else:
        write_durably(out, text.encode())
        click.echo(out)
    return ExitCode.FINISHED


def _renderer(form: str, spec: str | None) -> Callable[[Profile], str]:
    if form in CLUSTERS:
        if spec is not None:
            words = f"{form} starts a cluster that waits for studies; submit the spec with pruneyard submit"
            raise UsageError(f"--spec: {words}")
        return CLUSTERS[form]
    if spec is None:
        raise UsageError(f"--spec: is missing; {form} runs one study")
    resolved = load_spec(spec)
    return partial(JOBS[form], study=Study(name=resolved.name, spec=resolved.to_yaml()))
