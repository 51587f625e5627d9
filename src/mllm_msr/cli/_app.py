"""The Typer application, its root options, and `main`, the entry point of `mllm-msr`.

Commands print results to stdout; progress and messages go to stderr. Exit codes: 0 for success,
1 for a failure, 2 for wrong usage or settings, 130 or 143 if the command was stopped by SIGINT
(Ctrl-C) or SIGTERM.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import warnings
from typing import Annotated, Final, NoReturn

import typer

from mllm_msr.errors import MllmMsrError, UsageError
from mllm_msr.models import cpu_runtime
from mllm_msr.ranker.distributed.launch import is_worker, launched_by_torchrun

app = typer.Typer(
    name="mllm-msr",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

# Commands that have nothing to resume.
_NOT_RESUMED: Final = ("check", "doctor", "list", "recommend", "serve")

# Under torchrun, every process runs the command. Only these commands coordinate the processes.
DISTRIBUTED_COMMANDS: Final = ("train", "run")


@app.callback(help="Multimodal sequential recommendation with multimodal large language models.")
def configure(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more messages.")] = False,
) -> None:
    """Configure logging and reject commands that cannot run under torchrun.

    Raises:
        UsageError: torchrun started a command that does not support it.
    """
    command = context.invoked_subcommand
    if launched_by_torchrun(os.environ) and command not in DISTRIBUTED_COMMANDS:
        raise UsageError(
            f"The command {command!r} does not support torchrun. Run it without torchrun; only "
            f"{' and '.join(DISTRIBUTED_COMMANDS)} can be started with it."
        )
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )


def main() -> None:
    """Run the command line; print an error of this package as a message and set the exit code."""
    stopped: list[int] = []

    def stop(signum: int, frame: object) -> NoReturn:
        del frame
        stopped.append(signum)
        raise SystemExit(128 + signum)

    # Signals raise an exception, so that every `with` block exits and the run can be resumed.
    for signum in _STOP_SIGNALS:
        signal.signal(signum, stop)
    # Users can do nothing about deprecations inside Transformers.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    cpu_runtime.set_defaults()
    if not sys.stderr.isatty():
        # Transformers draws its progress bars even without a terminal.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        _run_command()
    except SystemExit:
        if stopped:
            _say_stopped(stopped[0])
            raise SystemExit(128 + stopped[0]) from None
        raise


def _run_command() -> None:
    """Run the command of the process; convert errors to a message and an exit code.

    Raises:
        SystemExit: With the exit code of the command.
    """
    try:
        app()
    except MllmMsrError as error:
        typer.echo(f"mllm-msr: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        from mllm_msr.storage.atomic import describe_system_error

        problem = describe_system_error(error)
        if problem is None:
            raise
        logging.getLogger(__name__).info("The command failed.", exc_info=True)
        typer.echo(f"mllm-msr: {problem}", err=True)
        raise SystemExit(1) from None


def _say_stopped(signum: int) -> None:
    """Print that the command was stopped, and the command that resumes it."""
    if is_worker(os.environ):
        return
    name = signal.Signals(signum).name
    if any(argument in _NOT_RESUMED for argument in sys.argv[1:2]):
        typer.echo(f"mllm-msr: Stopped by {name}.", err=True)
        return
    command = shlex.join(["mllm-msr", *sys.argv[1:]])
    typer.echo(
        f"mllm-msr: Interrupted by {name}. Finished work is kept. Resume with: {command}", err=True
    )
