"""Order of the prompts that weights were fine-tuned with, recorded in the folder of the weights.

A model that learned from prompts of one order gives meaningless scores for prompts of the other, so
loading the weights checks it. A folder without a record was fine-tuned with `item-first`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast, get_args

from mllm_msr import registry
from mllm_msr.config.recommend_settings import PromptOrder
from mllm_msr.errors import DamagedFileError, SettingsError
from mllm_msr.interfaces import Backend

_FILE: Final = "prompt.json"


def write_order(folder: Path, order: PromptOrder) -> None:
    """Record the order of the prompts in the folder of the weights."""
    if order != "item-first":
        (folder / _FILE).write_text(json.dumps({"order": order}) + "\n", encoding="utf-8")


def read_order(folder: Path) -> PromptOrder:
    """Return the order of the prompts that the weights in a folder were fine-tuned with.

    Raises:
        DamagedFileError: The record cannot be read.
    """
    file = folder / _FILE
    if not file.is_file():
        return "item-first"
    try:
        order = json.loads(file.read_text(encoding="utf-8"))["order"]
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise DamagedFileError(f"{file} cannot be read ({cause}). Restore the folder.") from cause
    if order not in get_args(PromptOrder):
        raise DamagedFileError(f"{file} has the unknown order {order!r}. Restore the folder.")
    return cast("PromptOrder", order)


def require_order(folder: Path, order: PromptOrder) -> None:
    """Check that weights were fine-tuned with prompts of an order.

    Raises:
        SettingsError: They were fine-tuned with another order.
        DamagedFileError: The record cannot be read.
    """
    trained = read_order(folder)
    if trained != order:
        problem = (
            f"recommend.order is {order}, but the weights in {folder} were fine-tuned with "
            f"{trained}. Set recommend.order={trained}, or fine-tune again."
        )
        raise SettingsError([problem])


def require_order_of(backend: str, options: Mapping[str, Any], order: PromptOrder) -> None:
    """Check the order of an adapter or fine-tuned checkpoint that the settings of a model name.

    A base model has no order, so a folder without a record is accepted as a checkpoint.

    Args:
        backend: Name of the backend.
        options: Constructor arguments of the backend, such as `adapter`.
        order: Order of the prompts.

    Raises:
        SettingsError: It was fine-tuned with another order.
    """
    if options.get("adapter") is not None:
        require_order(Path(options["adapter"]), order)
    kind = cast("type[Backend]", registry.find("backends", backend))
    checkpoint = kind.trainable_checkpoint(**options)
    if checkpoint is not None and (Path(checkpoint) / _FILE).is_file():
        require_order(Path(checkpoint), order)
