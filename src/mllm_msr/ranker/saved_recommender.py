"""Saving and loading of recommenders that prompt a language model: settings and items.

Shared by MLLM-MSR (`ranker/recommender.py`) and the baselines LLaVA zero-shot and TALLRec. A saved
recommender may come from another person, and its settings must not select who receives prompts and
API keys: recommenders that use an endpoint are not loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from mllm_msr.config.trust import has_endpoint
from mllm_msr.errors import DamagedFileError, DataError, UnknownNameError, UsageError
from mllm_msr.storage.atomic import replace_file, write_text
from mllm_msr.storage.verification import load_json
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
        UsageError: The recommender sends prompts to an endpoint.
    """
    try:
        settings = dict(load_json((folder / _SETTINGS).read_text(encoding="utf-8")))
        items = conform(pl.read_parquet(folder / _ITEMS), ITEMS, name="items")
        is_remote = "backend" in settings and has_endpoint(str(settings["backend"]))
    except (
        OSError,
        ValueError,
        TypeError,
        DataError,
        UnknownNameError,
        pl.exceptions.PolarsError,
    ) as cause:
        raise damaged_model(folder, cause) from cause
    if is_remote:
        raise UsageError(
            f"The saved model in {folder} sends prompts and keys to an endpoint, which its files "
            "must not select. Construct it with the endpoint of your choice and fit it again."
        )
    return settings, items


def damaged_model(folder: Path, cause: Exception | str) -> DamagedFileError:
    """Return the error for a saved recommender that cannot be read."""
    reason = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
    return DamagedFileError(
        f"The saved model in {folder} cannot be read ({reason}). Fit and save it again."
    )
