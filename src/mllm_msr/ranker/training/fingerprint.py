"""Fingerprint of the training settings, recorded by saved states and finished stages.

Only values that differ from their defaults are recorded: adding a setting whose default keeps the
old behavior does not invalidate finished training runs.
"""

from __future__ import annotations

from typing import Any, Final

from mllm_msr.config.settings import TrainSettings

# Settings that change the speed or the files of a training run, but not the weights.
_NO_EFFECT: Final = frozenset(
    {"enabled", "checkpoint_every", "gradient_checkpointing", "cache_vision", "tensorboard"}
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
