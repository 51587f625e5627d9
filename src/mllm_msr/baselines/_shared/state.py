"""Saved state of fitted baselines: settings and items as JSON, arrays as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mllm_msr.errors import DamagedFileError, TrainingError
from mllm_msr.storage.atomic import replace_file, write_text
from mllm_msr.storage.verification import load_json

Arrays = Mapping[str, npt.NDArray[Any]]

_SETTINGS: Final = "model.json"
_ARRAYS: Final = "model.safetensors"


@dataclass(frozen=True, slots=True)
class State:
    """State of a fitted model.

    Attributes:
        settings: Constructor arguments.
        catalog: Item ids, in column order.
        arrays: Learned arrays.
        is_time_limited: Whether a time limit ended training.
    """

    settings: Mapping[str, Any]
    catalog: tuple[str, ...]
    arrays: Arrays
    is_time_limited: bool = False


def save_state(folder: Path, state: State) -> None:
    """Write a fitted model into a folder, which is created if necessary.

    Raises:
        RunFolderError: The disk is full or the folder cannot be written.
    """
    with replace_file(folder / _ARRAYS) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in state.arrays.items()}, temporary)
    content: dict[str, Any] = {"settings": dict(state.settings), "catalog": list(state.catalog)}
    if state.is_time_limited:
        content["is_time_limited"] = True
    write_text(folder / _SETTINGS, json.dumps(content, ensure_ascii=False))


def load_state(folder: Path, *, names: Sequence[str]) -> State:
    """Read what `save_state` wrote.

    Args:
        folder: The folder.
        names: Required arrays.

    Raises:
        DamagedFileError: A file is missing or its content is invalid.
    """
    try:
        content = load_json((folder / _SETTINGS).read_text(encoding="utf-8"))
        arrays = load_file(folder / _ARRAYS)
        state = State(
            dict(content["settings"]),
            tuple(map(str, content["catalog"])),
            arrays,
            is_time_limited=bool(content.get("is_time_limited")),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as cause:
        raise damaged(folder, f"{type(cause).__name__}: {cause}") from cause
    if missing := [name for name in names if name not in arrays]:
        raise damaged(folder, f"{_ARRAYS} lacks {', '.join(missing)}")
    return state


def damaged(folder: Path, cause: str) -> DamagedFileError:
    """Build the error for a folder that does not contain a valid fitted model."""
    reason = (cause.splitlines() or ["unknown cause"])[0].rstrip(".")
    return DamagedFileError(
        f"Cannot load the fitted baseline in {folder}: {reason}. Fit the baseline again."
    )


def unfitted(name: str) -> TrainingError:
    """Build the error for using a model before it is fitted."""
    return TrainingError(f"The baseline {name!r} is not fitted. Call fit or load first.")
