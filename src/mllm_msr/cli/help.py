"""`help`: print the help of a command, like `mllm-msr COMMAND --help`."""

from __future__ import annotations

from typing import Annotated

import typer

from mllm_msr.cli._app import GROUPS, register
from mllm_msr.errors import UsageError


def complete_name() -> list[str]:
    """Return the names of all commands."""
    return [name for names in GROUPS.values() for name in names]


@register("help", "Show the help of a command")
def command(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="COMMAND", help="Name of a command.", autocompletion=complete_name),
    ] = None,
) -> None:
    """Show the help of a command, or the list of commands."""
    root = context.parent
    if root is None:
        raise UsageError("There is no list of commands. Call mllm-msr help.")
    if name is None:
        typer.echo(root.get_help())
        return
    from mllm_msr import registry

    commands = getattr(root.command, "commands", {})
    if name not in commands:
        raise registry.unknown_name_error("command", name, list(commands))
    with commands[name].make_context(name, [], parent=root, resilient_parsing=True) as shown:
        typer.echo(shown.get_help())
