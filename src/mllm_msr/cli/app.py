"""The program itself: its root options, and `main`, where errors become sentences.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage
or settings.
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
from mllm_msr.ranker.distributed.launch import is_launched

app = typer.Typer(
    name="mllm-msr",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# What several processes may do together; every other command would be done by each of them.
_TOGETHER: Final = ("train", "run")


@app.callback()
def _root(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More messages.")] = False,
) -> None:
    """Multimodal sequential recommendation with multimodal large language models."""
    command = context.invoked_subcommand
    if is_launched(os.environ) and command not in _TOGETHER:
        raise UsageError(
            needed=f"one of {', '.join(_TOGETHER)} under torchrun",
            received=str(command),
            remedy="train with torchrun, then start this command by itself",
        )
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )


def _terminate(signum: int, frame: object) -> NoReturn:
    del frame
    raise SystemExit(128 + signum)


def main() -> None:
    """Entry point: errors of this package end in one sentence and their exit code."""
    # As an exception, a request to stop passes through every `with` and leaves a sound folder.
    signal.signal(signal.SIGTERM, _terminate)
    # What Transformers will rename one day is nothing that a user can mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    cpu_runtime.set_defaults()
    if not sys.stderr.isatty():
        # Transformers draws bars of its own, outside a terminal too.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except MllmMsrError as error:
        typer.echo(f"mllm-msr: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("mllm-msr: interrupted; the same command goes on from here", err=True)
        raise SystemExit(130) from None
