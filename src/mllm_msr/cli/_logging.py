"""Messages of the commands: on stderr, and in `run.log` of the run folder.

Warnings, errors and the lines of `_progress.py` go to stderr; `--verbose` adds the messages of this
package, `--quiet` leaves only errors. `run.log` always has all of them, with the command that was
called, so that a run on another machine or without a terminal can be followed.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

from mllm_msr.cli._output import tell
from mllm_msr.errors import MllmMsrError, UsageError

# Loggers of the lines that show the progress of a run; stages are those of `pipeline/context.py`.
STAGES: Final = "mllm_msr.pipeline.context"
PROGRESS: Final = "mllm_msr.cli._progress"

_FILE_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"


@final
class MessageHandler(logging.Handler):
    """Handler that prints to the current stderr.

    Attributes:
        shown: Loggers whose messages are shown from level INFO.
    """

    def __init__(self, level: int, *, shown: tuple[str, ...]) -> None:
        super().__init__()
        self.least = level
        self.shown = shown

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a message is shown."""
        return record.levelno >= self.least or record.name in self.shown

    def format(self, record: logging.LogRecord) -> str:
        """Return the time and the message; the level instead of the time for warnings."""
        if record.levelno >= logging.WARNING:
            return f"{record.levelname} {super().format(record)}"
        time = logging.Formatter(datefmt="%H:%M:%S").formatTime(record, "%H:%M:%S")
        return f"{time} {super().format(record)}"

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message; progress bars redirect stderr, so it is looked up for each."""
        with contextlib.suppress(OSError):  # stderr is closed
            tell(self.format(record))


@final
class RunLogHandler(logging.FileHandler):
    """Handler that appends to `run.log`, and stops when that fails, such as on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - a method of logging
        """Stop writing; the run itself reports the problem."""
        del record
        self.setLevel(logging.CRITICAL + 1)


def configure(*, verbose: bool = False, quiet: bool = False) -> None:
    """Select the messages on stderr for the rest of the process.

    Args:
        verbose: Show all messages of this package.
        quiet: Show only errors.

    Raises:
        UsageError: Both are set.
    """
    if verbose and quiet:
        raise UsageError("Both --verbose and --quiet are given. Give at most one.")
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, MessageHandler)]:
        root.removeHandler(handler)
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    shown = () if quiet else (STAGES,) if sys.stderr.isatty() else (STAGES, PROGRESS)
    root.addHandler(MessageHandler(level, shown=shown))
    logging.getLogger("mllm_msr").setLevel(logging.INFO if verbose else logging.NOTSET)
    # Users can do nothing about these messages of other packages.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def is_quiet() -> bool:
    """Return whether stderr only shows errors."""
    handlers = logging.getLogger().handlers
    return any(isinstance(each, MessageHandler) and not each.shown for each in handlers)


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append the messages of this package, and its errors, to a file in the block.

    Args:
        path: File in an existing folder. If it cannot be written, nothing is logged.
    """
    from mllm_msr import __version__

    package = logging.getLogger("mllm_msr")
    level = package.level
    try:
        handler = RunLogHandler(path, encoding="utf-8")
    except OSError:
        yield
        return
    handler.setFormatter(logging.Formatter(_FILE_FORMAT))
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    logger = logging.getLogger(__name__)
    try:
        logger.info("mllm-msr %s: %s", __version__, shlex.join(sys.argv[1:]))
        yield
    except SystemExit as stopped:
        _log_only(handler, f"stopped with exit code {stopped.code}")
        raise
    except MllmMsrError as error:
        _log_only(handler, f"failed: {error}")
        raise
    except BaseException as error:
        _log_only(handler, f"failed: {type(error).__name__}: {error}")
        raise
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        with contextlib.suppress(OSError):  # the last messages cannot be written
            handler.close()


def _log_only(handler: logging.Handler, text: str) -> None:
    """Write an error to the file alone; `main` prints it."""
    handler.handle(logging.LogRecord(__name__, logging.ERROR, "", 0, text, None, None))
