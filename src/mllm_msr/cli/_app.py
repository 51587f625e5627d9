"""The Typer application, its root options, and `main`, the entry point of `mllm-msr`.

Commands print results to stdout; progress and messages go to stderr. Exit codes: 0 for success,
1 for a failure, 2 for wrong usage or settings.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from typing import Annotated, Final, NoReturn

import typer

from mllm_msr.errors import MllmMsrError, UsageError
from mllm_msr.models import cpu_runtime
from mllm_msr.ranker.distributed.launch import launched_by_torchrun

app = typer.Typer(
    name="mllm-msr",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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

    def terminate(signum: int, frame: object) -> NoReturn:
        del frame
        raise SystemExit(128 + signum)

    # SIGTERM raises an exception, so that every `with` block exits and the run can be resumed.
    signal.signal(signal.SIGTERM, terminate)
    # Users can do nothing about deprecations inside Transformers.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    cpu_runtime.set_defaults()
    if not sys.stderr.isatty():
        # Transformers draws its progress bars even without a terminal.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except MllmMsrError as error:
        typer.echo(f"mllm-msr: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("mllm-msr: Interrupted. Run the same command again to resume.", err=True)
        raise SystemExit(130) from None
