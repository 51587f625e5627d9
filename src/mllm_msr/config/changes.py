"""Settings that differ from those of their preset, and the command line that repeats them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from mllm_msr.config.loading import merge_sources
from mllm_msr.config.nested import flat
from mllm_msr.config.settings import Settings

# Texts that YAML reads as they are, in a shell that does not change them either.
_PLAIN: Final = re.compile(r"[A-Za-z_/.][\w/.@%+-]*")
_NOT_TEXT: Final = re.compile(
    r"(y|n|yes|no|on|off|true|false|null|none|\.inf|\.nan)", re.IGNORECASE
)


def changed_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from those of the preset that they started from.

    Environment variables count as changes, because they are not part of the preset.

    Args:
        settings: Validated settings.

    Returns:
        Values by dotted key ("train.rank"), in the order of the settings.
    """
    # Not `load_settings`: many presets are only valid with the user's own paths.
    preset, _ = merge_sources(settings.preset, (), environment={})
    original = dict(flat(Settings.model_validate(preset).model_dump(mode="json")))
    return {
        key: value
        for key, value in flat(settings.model_dump(mode="json"))
        if key != "preset" and (key not in original or original[key] != value)
    }


def as_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as `key=value` arguments, quoted for a shell.

    >>> as_arguments({"train.rank": 4, "data.run_folds": [0, 1]})
    ['train.rank=4', "'data.run_folds=[0, 1]'"]
    """
    return [shlex.quote(f"{key}={_as_text(value)}") for key, value in settings.items()]


def _as_text(value: object) -> str:
    """Return a value as YAML on one line; JSON is YAML."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and not _NOT_TEXT.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
