"""Lookup of existing run folders, with errors that name similar ones."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

from mllm_msr.errors import RunFolderError
from mllm_msr.storage import layout
from mllm_msr.storage.uri import require_local

_HOW: Final = "'mllm-msr run' and 'mllm-msr demo' create runs."


def require_run(path: Path | str, *, how: str = _HOW) -> Path:
    """Return the absolute path of an existing run folder.

    Args:
        path: The run folder.
        how: Sentence about how runs are created, for the message.

    Raises:
        RunFolderError: There is no run at this path; the message names similar ones.
    """
    folder = require_local(path).absolute()
    if is_run(folder):
        return folder
    runs = [each for each in _folders(folder.parent) if is_run(each)]
    close = difflib.get_close_matches(folder.name, [each.name for each in runs], n=3)
    names = " or ".join(str(Path(path).parent / name) for name in close)
    hint = f"Did you mean {names}?" if close else "Check the path."
    problem = f"There is no run folder at {path}."
    if folder.is_dir():
        problem = f"The folder {path} does not contain a run."
    raise RunFolderError(f"{problem} {hint} {how}")


def is_run(folder: Path) -> bool:
    """Return whether a command has started a run in a folder."""
    return any((folder / name).exists() for name in (layout.MANIFEST, layout.CONFIG))


def _folders(parent: Path) -> list[Path]:
    try:
        return [each for each in parent.iterdir() if each.is_dir()]
    except OSError:
        return []
