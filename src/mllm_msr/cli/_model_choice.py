"""Model of a new run on the user's own files, if no setting names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_NAMES: Final = frozenset({"backend", "checkpoint", "preset"})
_SETTINGS: Final = ("model.backend=smollm",)
_SMALL: Final = (
    "No model is named, so this run uses smollm, a pretrained model with 135 million parameters "
    "that runs on a CPU. A larger model on a GPU would describe images and preferences more "
    "reliably: see 'mllm-msr list models'."
)
_DEMO: Final = (
    "No model is named, so this run uses the demo model, which only knows its synthetic world: it "
    "shows that your files are read, and its recommendations mean little. For a small pretrained "
    "model, run: {command}"
)


def choose_model(given: Mapping[str, Any]) -> tuple[list[str], str]:
    """Select the small pretrained model for `dataset=files` if it is installed.

    Args:
        given: Nested settings of all sources, without defaults.

    Returns:
        Settings as `key=value`, and a message for the user. Both are empty if the settings name a
        model or another dataset; without the packages of the small model, only the settings are.
    """
    from mllm_msr.models.small.sources import installing_command, missing_packages

    model = given.get("model")
    if given.get("dataset") != "files" or (isinstance(model, Mapping) and _NAMES & set(model)):
        return [], ""
    if missing_packages():
        return [], _DEMO.format(command=installing_command())
    return [*_SETTINGS], _SMALL
