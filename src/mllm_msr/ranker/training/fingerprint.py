"""Fingerprints of the training settings and examples, for saved states and finished stages.

Only settings that differ from their defaults are recorded: adding a setting whose default keeps the
old behavior does not invalidate finished training runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from mllm_msr.config.train_settings import TrainSettings
from mllm_msr.ranker.examples import Example
from mllm_msr.types import ImagePart, Part, Prompt, TextPart

# Settings that change the speed or the files of a training run, but not the weights.
_NO_EFFECT: Final = frozenset(
    {"enabled", "checkpoint_every", "gradient_checkpointing", "cache_vision", "loggers"}
)


def training_fingerprint(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that change the trained weights and differ from their defaults.

    Returns:
        JSON-able values by setting name; the order of layer names in `target` does not matter.
    """
    values = settings.model_dump(mode="json", exclude=set(_NO_EFFECT), exclude_defaults=True)
    if isinstance(values.get("target"), list):
        values["target"] = sorted(values["target"])
    return values


def run_fingerprint(
    model: str, examples: Mapping[str, Iterable[Example]], settings: TrainSettings
) -> dict[str, Any]:
    """Return what the weights of a training run depend on, as JSON-able values.

    Args:
        model: Fingerprint of the model before the training.
        examples: Examples by their use ("train").
        settings: Training settings.
    """
    digests = {f"{use}_examples": examples_digest(examples[use]) for use in examples}
    return {"model": model, **digests, **training_fingerprint(settings)}


def examples_digest(examples: Iterable[Example]) -> str:
    """Return the SHA-256 of prompts and labels in hexadecimal; images enter by file name."""
    return records_digest(
        [example.label, example.prompt.max_text_tokens, prompt_content(example.prompt)]
        for example in examples
    )


def records_digest(records: Iterable[object]) -> str:
    """Return the SHA-256 of JSON-able values in hexadecimal."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record).encode())
    return digest.hexdigest()


def prompt_content(prompt: Prompt) -> list[object]:
    """Return what identifies the parts of a prompt, as JSON-able values."""
    return [_part_content(part) for part in prompt.parts]


def _part_content(part: Part) -> object:
    if isinstance(part, TextPart):
        return part.text
    return part.path.name if isinstance(part, ImagePart) else [part.kind, part.vectors]
