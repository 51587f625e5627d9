"""Model of a new run on the user's own files, if no setting names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_NAMES: Final = frozenset({"backend", "checkpoint", "preset"})
_PRESET: Final = "smollm2-135m"
_SMALL: Final = (
    "No model is named, so this run uses smollm, a pretrained model with 135 million parameters "
    f"that runs on a CPU (model.preset={_PRESET}). It reads titles and texts. It is too small to "
    "describe photographs or to write preferences reliably, so these steps are left out; see "
    "docs/own-data.md. A larger model on a GPU would do both: see 'mllm-msr list models'."
)
_DEMO: Final = (
    "No model is named, so this run uses the demo model, which only knows its synthetic world: it "
    "shows that your files are read, and its recommendations mean little. For a small pretrained "
    "model, run: {command}"
)


def choose_model(given: Mapping[str, Any]) -> tuple[str | None, str]:
    """Select the small pretrained model for `dataset=files` if it is installed.

    Args:
        given: Nested settings of all sources, without defaults.

    Returns:
        The preset of the small model, and a message for the user. Without the packages of the
        model, there is only a message; there is none if the settings name a model, another preset
        or another dataset.
    """
    from mllm_msr.models.small.sources import installing_command, missing_packages

    model = given.get("model")
    names_model = isinstance(model, Mapping) and not _NAMES.isdisjoint(model)
    if given.get("dataset") != "files" or given.get("preset") != "default" or names_model:
        return None, ""
    if missing_packages():
        return None, _DEMO.format(command=installing_command())
    return _PRESET, _SMALL
