"""The Typer application, its root options, and `main`, the entry point of `mllm-msr`.

Commands print results to stdout; progress and messages go to stderr. Exit codes: 0 for success,
1 for a failure, 2 for wrong usage or settings, 130 or 143 if the command was stopped by SIGINT
(Ctrl-C) or SIGTERM.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from mllm_msr.cli._logging import configure
from mllm_msr.cli._output import tell
from mllm_msr.config import tracing
from mllm_msr.errors import MllmMsrError, UsageError, convert_missing_extras
from mllm_msr.models import cpu_runtime
from mllm_msr.ranker.distributed.launch import is_worker, launched_by_torchrun

# The commands by group, in the order of `mllm-msr --help`; others are listed with the tools.
GROUPS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Start": ("demo", "check", "plan", "run", "status"),
        "Stages": (
            *("prepare", "align", "summarize", "infer", "train"),
            *("distill", "score", "evaluate", "report"),
        ),
        "Compare": ("compare", "tune", "experiment"),
        "Use": ("fit-lists", "recommend", "serve", "mcp", "ab-report", "update"),
        "Tools": ("list", "doctor", "pull", "push", "export", "help"),
    }
)
MAX_SUMMARY: Final = 50  # characters

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

# Commands that have nothing to resume. `demo --serve` has nothing either while it serves.
_NOT_RESUMED: Final = (
    *("ab-report", "check", "doctor", "export", "help", "list", "mcp"),
    *("recommend", "serve", "status"),
)

# Under torchrun, every process runs the command. Only these commands coordinate the processes.
DISTRIBUTED_COMMANDS: Final = ("train", "run")

VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show more messages.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show only errors.")]


class GroupedCommands(TyperGroup):
    """Command line whose help lists the commands by group."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands of each group with their summaries."""
        rest = list(self.commands)
        sections = {group: [each for each in names if each in rest] for group, names in
                    GROUPS.items()}  # fmt: skip
        grouped = {name for names in sections.values() for name in names}
        sections["Tools"] += [name for name in rest if name not in grouped]
        width = max(map(len, rest))
        for group, names in sections.items():
            with formatter.section(group):
                # Equal widths align the summaries of all groups.
                formatter.write_dl(
                    [(f"{name:<{width}}", self._summary(ctx, name)) for name in names]
                )

    def _summary(self, ctx: Any, name: str) -> str:
        command = self.get_command(ctx, name)
        return "" if command is None else command.get_short_help_str(limit=MAX_SUMMARY + 1)


class Command(TyperCommand):
    """Command whose help shows the name of an argument without its Python type."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument):
                parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign] # noqa: ARG005


app = typer.Typer(
    name="mllm-msr",
    cls=GroupedCommands,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(
    name: str,
    summary: str,
    *,
    cls: type[Command] = Command,
    help: str | None = None,  # noqa: A002 - the name in Typer
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a command with the options `--verbose` and `--quiet`.

    Args:
        name: Name of the command.
        summary: What the command does, in at most `MAX_SUMMARY` characters, for the list of
            commands.
        cls: Class of the command.
        help: Help text; by default the docstring of the function.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        kind = inspect.Parameter.KEYWORD_ONLY
        added = {"verbose": VerboseOption, "quiet": QuietOption}

        @functools.wraps(function)
        def command(*, verbose: bool, quiet: bool, **arguments: Any) -> None:
            if verbose or quiet:
                configure(verbose=verbose, quiet=quiet)
            function(**arguments)

        parameters = [
            *(each.replace(kind=kind) for each in signature.parameters.values()),
            *(
                inspect.Parameter(option, kind, default=False, annotation=annotation)
                for option, annotation in added.items()
            ),
        ]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(name, cls=cls, help=help, short_help=summary)(command)
        return function

    return decorate


def _print_version(*, value: bool) -> None:
    if value:
        from mllm_msr import __version__

        typer.echo(f"mllm-msr {__version__}")
        raise typer.Exit


@app.callback(help="Multimodal sequential recommendation with multimodal large language models.")
def start(
    context: typer.Context,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Configure messages and reject commands that cannot run under torchrun.

    Raises:
        UsageError: torchrun started a command that does not support it.
    """
    del version
    command = context.invoked_subcommand
    if command is None:
        typer.echo(context.get_help())
        raise typer.Exit
    if launched_by_torchrun(os.environ) and command not in DISTRIBUTED_COMMANDS:
        raise UsageError(
            f"The command {command!r} does not support torchrun. Run it without torchrun; only "
            f"{' and '.join(DISTRIBUTED_COMMANDS)} can be started with it."
        )
    configure(verbose=verbose, quiet=quiet)


class Stopped(SystemExit):
    """A signal stops the command.

    Attributes:
        signum: Number of the signal.
        is_finished: Whether nothing is left to resume.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        self.is_finished = _command_name() in _NOT_RESUMED


def _command_name() -> str:
    """Return the name of the command of this process; options before it have no values."""
    return next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")


def main() -> None:
    """Run the command line; print an error of this package as a message and set the exit code."""
    stopped: list[Stopped] = []

    def stop(signum: int, frame: object) -> NoReturn:
        del frame
        stopped.append(Stopped(signum))
        raise stopped[-1]

    # Signals raise an exception, so that every `with` block exits and the run can be resumed.
    for signum in _STOP_SIGNALS:
        signal.signal(signum, stop)
    # Users can do nothing about deprecations inside Transformers.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    cpu_runtime.set_defaults()
    tracing.configure(os.environ)
    # Bars of other packages would break those of `_progress.py`.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        _run_command()
    except SystemExit:
        if stopped:
            _say_stopped(stopped[-1])
            raise stopped[-1] from None
        raise


def _run_command() -> None:
    """Run the command of the process; convert errors to a message and an exit code.

    Raises:
        SystemExit: With the exit code of the command.
    """
    try:
        with convert_missing_extras():
            app()
    except MllmMsrError as error:
        tell(f"mllm-msr: {error}")
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        from mllm_msr.storage.atomic import describe_system_error

        problem = describe_system_error(error)
        if problem is None:
            raise
        logging.getLogger(__name__).info("The command failed.", exc_info=True)
        tell(f"mllm-msr: {problem}")
        raise SystemExit(1) from None


def _say_stopped(stopped: Stopped) -> None:
    """Print that the command was stopped, and the command that resumes it."""
    if is_worker(os.environ):
        return
    name = signal.Signals(stopped.signum).name
    if stopped.is_finished:
        typer.echo(f"mllm-msr: Stopped by {name}.", err=True)
        return
    command = shlex.join(["mllm-msr", *sys.argv[1:]])
    tell(f"mllm-msr: Interrupted by {name}. Finished work is kept. Resume with:")
    typer.echo(f"  {command}", err=True)  # in one line, so that it can be copied
