"""Saving and loading of recommenders that prompt a language model: settings and items.

Shared by MLLM-MSR (`ranker/recommender.py`) and the baselines LLaVA zero-shot and TALLRec.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from mllm_msr.errors import DamagedFileError, DataError
from mllm_msr.storage.atomic import replace_file, write_text
from mllm_msr.tables import ITEMS, conform

_SETTINGS: Final = "model.json"
_ITEMS: Final = "items.parquet"


def save_items(folder: Path, settings: Mapping[str, Any], items: pl.DataFrame) -> None:
    """Write settings and items into a folder, which is created if missing.

    Raises:
        RunFolderError: The disk is full or the folder cannot be written.
    """
    with replace_file(folder / _ITEMS) as temporary:
        items.write_parquet(temporary)
    write_text(folder / _SETTINGS, json.dumps(dict(settings), ensure_ascii=False))


def load_items(folder: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Read what `save_items` wrote.

    Raises:
        DamagedFileError: A file is missing or its content has changed.
    """
    try:
        settings = dict(json.loads((folder / _SETTINGS).read_text(encoding="utf-8")))
        items = conform(pl.read_parquet(folder / _ITEMS), ITEMS, name="items")
    except (OSError, ValueError, TypeError, DataError, pl.exceptions.PolarsError) as cause:
        raise damaged_model(folder, cause) from cause
    return settings, items


def damaged_model(folder: Path, cause: Exception | str) -> DamagedFileError:
    """Return the error for a saved recommender that cannot be read."""
    reason = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
    return DamagedFileError(
        f"The saved model in {folder} cannot be read ({reason}). Fit and save it again."
    )
