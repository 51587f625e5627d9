"""Progress bars of Transformers, which would interrupt those of this package and of notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging


@contextmanager
def hide_bars(checkpoint: str) -> Iterator[None]:
    """Hide the bars of Transformers in the block while a checkpoint is loaded from a folder.

    Loading from the hub may download gigabytes, so its bars are shown.

    Args:
        checkpoint: Folder, or id on the hub.
    """
    if not (Path(checkpoint).is_dir() and logging.is_progress_bar_enabled()):
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
