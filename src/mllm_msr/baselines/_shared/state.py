"""What a fitted baseline keeps on disk: settings and items as JSON, numbers as safetensors."""

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
from scipy import sparse

from mllm_msr.errors import DamagedFileError, TrainingError
from mllm_msr.storage.atomic import replace_file, write_text

Arrays = Mapping[str, npt.NDArray[Any]]

_SETTINGS: Final = "model.json"
_ARRAYS: Final = "model.safetensors"
_PARTS: Final = ("data", "indices", "indptr")


@dataclass(frozen=True, slots=True)
class State:
    """A fitted model.

    Attributes:
        settings: Constructor arguments.
        catalog: Item ids, in the order of columns.
        arrays: What was learnt.
    """

    settings: Mapping[str, Any]
    catalog: tuple[str, ...]
    arrays: Arrays


def save_state(folder: Path, state: State) -> None:
    """Write a fitted model into a folder, which is made where it is missing.

    Raises:
        RunFolderError: The disk is full or the folder cannot be written.
    """
    with replace_file(folder / _ARRAYS) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in state.arrays.items()}, temporary)
    about = {"settings": dict(state.settings), "catalog": list(state.catalog)}
    write_text(folder / _SETTINGS, json.dumps(about, ensure_ascii=False))


def load_state(folder: Path, *, names: Sequence[str]) -> State:
    """Read what `save_state` wrote.

    Args:
        folder: The folder.
        names: Arrays that must be there.

    Raises:
        DamagedFileError: A file is missing or not what was written.
    """
    try:
        about = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        arrays = load_file(folder / _ARRAYS)
        state = State(dict(about["settings"]), tuple(map(str, about["catalog"])), arrays)
        absent = [name for name in names if name not in arrays]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as cause:
        raise damaged(folder, f"{type(cause).__name__}: {cause}") from cause
    if absent:
        raise damaged(folder, f"files without {', '.join(absent)}")
    return state


def matrix_arrays(name: str, matrix: sparse.csr_array) -> dict[str, npt.NDArray[Any]]:
    """A sparse matrix as named arrays."""
    return {f"{name}.{part}": getattr(matrix, part) for part in _PARTS}


def matrix_names(name: str) -> list[str]:
    """Names of the arrays that `matrix_arrays` makes."""
    return [f"{name}.{part}" for part in _PARTS]


def matrix_of(name: str, state: State) -> sparse.csr_array:
    """The square sparse matrix over the catalog that `matrix_arrays` took apart."""
    n_items = len(state.catalog)
    parts = tuple(state.arrays[part] for part in matrix_names(name))
    return sparse.csr_array(parts, shape=(n_items, n_items))


def damaged(folder: Path, cause: str) -> DamagedFileError:
    """The error for a folder that does not hold a fitted model."""
    return DamagedFileError(
        needed=f"a fitted model in {folder}",
        received=cause.splitlines()[0],
        remedy="fit the baseline again",
    )


def unfitted(name: str) -> TrainingError:
    """The error for a model that is asked before it was fitted."""
    return TrainingError(
        needed=f"a fitted {name} model",
        received="one that has seen no data",
        remedy="call fit or load first",
    )
