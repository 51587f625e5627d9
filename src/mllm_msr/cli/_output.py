"""Output of the commands: one JSON object with `--json`, else readable text and tables."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def emit(values: Mapping[str, Any], *, as_json: bool, plain: RenderableType | None = None) -> None:
    """Print values as JSON, as the text `plain`, or, without either, as lines `key: value`.

    Args:
        values: JSON values.
        as_json: Whether to print JSON.
        plain: Text, or a renderable of Rich, which is fitted to the width of the terminal.
    """
    if as_json:
        typer.echo(json.dumps(values, indent=2, default=str))
    elif isinstance(plain, str):
        typer.echo(plain)
    elif plain is not None:
        print_fitted(plain)
    else:
        for key, value in values.items():
            typer.echo(f"{key}: {value}")


def tell(text: str) -> None:
    """Print a message to stderr; on a terminal, its lines are broken between words."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        lines = (
            textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
            for line in text.splitlines()
        )
        text = "\n".join(lines)
    typer.echo(text, err=True)


def print_fitted(content: RenderableType) -> None:
    """Print a renderable to stdout, fitted to the width of the terminal, or else 80 columns."""
    from rich.console import Console

    # Texts come from data and models, so nothing in them is markup.
    console = Console(markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(content, crop=False)
    lines = captured.get().splitlines()
    typer.echo("\n".join(line.rstrip() for line in lines))


def unbroken(lines: Sequence[str]) -> RenderableType:
    """Return lines that keep their length, because paths and commands are copied."""
    from rich.console import Group
    from rich.text import Text

    # Printing joins texts, and forgets how each one wraps, unless they are in a group.
    return Group(Text("\n".join(lines), no_wrap=True, overflow="ignore"))


def make_table(*columns: str, left: Collection[int] = (0,), wrap: Collection[int] = (0,)) -> Table:
    """Return an empty table without borders.

    Args:
        columns: Headings.
        left: Columns that are aligned to the left; the others are aligned to the right.
        wrap: Columns that break into lines if the table is too wide.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for at, heading in enumerate(columns):
        table.add_column(
            heading,
            justify="left" if at in left else "right",
            no_wrap=at not in wrap,
            overflow="fold",
        )
    return table
