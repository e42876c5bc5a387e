"""`pruneyard completion`: the script that teaches a shell our verbs and options."""

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> int:
    """Print the completion script; put `eval "$(pruneyard completion bash)"` into ~/.bashrc."""
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(ctx.find_root().command, {}, "pruneyard", "_PRUNEYARD_COMPLETE").source())
    return 0
