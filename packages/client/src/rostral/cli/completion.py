"""`rostral completion`: what a shell must run to complete the command's words."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    r"""Print the completion of the command for SHELL.

    \b
    rostral completion bash > ~/.local/share/bash-completion/completions/rostral
    rostral completion fish > ~/.config/fish/completions/rostral.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    root = context.find_root().command
    click.echo(found(root, {}, "rostral", "_ROSTRAL_COMPLETE").source())
