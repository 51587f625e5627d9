"""Content of the prompts that weights were fine-tuned with, recorded in the folder of the weights.

A model that learned from prompts of one kind gives meaningless scores for prompts of another, so
loading the weights checks it. The record has the settings of the section `recommend` that differ
from their defaults; a folder without a record was fine-tuned with the defaults, the paper's prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pydantic

from mllm_msr import registry
from mllm_msr.config.recommend_settings import RecommendSettings
from mllm_msr.errors import DamagedFileError, SettingsError

_FILE: Final = "prompt.json"
# Settings that must be those of the fine-tuning; lengths of texts and histories may differ.
_CHECKED: Final = ("order", "reads", "item_text", "collaborative")


def write_prompt_record(folder: Path, settings: RecommendSettings) -> None:
    """Record the settings of the prompts in the folder of the weights."""
    if settings != RecommendSettings():
        text = settings.model_dump_json(exclude_defaults=True)
        (folder / _FILE).write_text(text + "\n", encoding="utf-8")


def read_prompt_record(folder: Path) -> RecommendSettings:
    """Return the settings of the prompts that the weights in a folder were fine-tuned with.

    Raises:
        DamagedFileError: The record cannot be read.
    """
    file = folder / _FILE
    if not file.is_file():
        return RecommendSettings()
    try:
        return RecommendSettings.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, pydantic.ValidationError) as cause:
        raise DamagedFileError(f"{file} cannot be read ({cause}). Restore the folder.") from cause


def require_prompt(folder: Path, settings: RecommendSettings) -> None:
    """Check that weights were fine-tuned with prompts of the same kind.

    Raises:
        SettingsError: They were fine-tuned with another order or content; the message says which.
        DamagedFileError: The record cannot be read.
    """
    trained = read_prompt_record(folder)
    problems = [
        f"recommend.{name} is {getattr(settings, name)}, but the weights in {folder} were "
        f"fine-tuned with {value}. Set recommend.{name}={value}, or fine-tune again."
        for name in _CHECKED
        if (value := getattr(trained, name)) != getattr(settings, name)
    ]
    if problems:
        raise SettingsError(problems)


def require_prompt_of(
    backend: str, options: Mapping[str, Any], settings: RecommendSettings
) -> None:
    """Check the prompts of an adapter or fine-tuned checkpoint that the settings of a model name.

    A base model has no record, so a folder without one is accepted as a checkpoint.

    Args:
        backend: Name of the backend.
        options: Constructor arguments of the backend, such as `adapter`.
        settings: The section `recommend`.

    Raises:
        SettingsError: It was fine-tuned with other prompts.
    """
    if options.get("adapter") is not None:
        require_prompt(Path(options["adapter"]), settings)
    kind = registry.find_backend(backend)
    checkpoint = kind.trainable_checkpoint(**options)
    if checkpoint is not None and (Path(checkpoint) / _FILE).is_file():
        require_prompt(Path(checkpoint), settings)
