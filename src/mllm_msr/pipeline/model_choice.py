"""Settings of a run folder, and the model of a new run on the user's own files if none is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mllm_msr.config.loading import Overrides, merge_sources, named_preset
from mllm_msr.config.run_settings import load_finished_settings, load_run_settings
from mllm_msr.config.settings import Settings
from mllm_msr.errors import RunFolderError
from mllm_msr.models.small import sources
from mllm_msr.storage import layout
from mllm_msr.storage.run_lookup import require_run

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
_NEW_RUN: Final = "To create one, name its dataset: dataset=files data.path=FOLDER."
_UNKNOWN: Final = (
    "{config} is missing, so the settings of the run are unknown. Restore it, or repeat the "
    "command with the settings of the run (dataset=..., --preset or --config)."
)


def load_with_model(
    folder: Path,
    overrides: Overrides | None = (),
    *,
    preset: str | None = None,
    file: Path | None = None,
    creates: bool = True,
) -> tuple[Settings, str]:
    """Return the settings of a run folder, and a message if `choose_model` has one.

    Args:
        folder: The run folder.
        overrides: As for `load_run_settings`; None requires a run, and loads its saved settings.
        preset: As for `load_run_settings`.
        file: As for `load_run_settings`.
        creates: Whether the folder need not exist if the settings name a dataset.

    Raises:
        SettingsError: A setting is wrong.
        UnknownNameError: The preset does not exist.
        RunFolderError: There is no such run, or its settings are unknown.
        DamagedFileError: The saved settings are damaged.
    """
    if overrides is None:
        return load_finished_settings(folder), ""
    preset, overrides = named_preset(preset, overrides)
    if preset is None and (folder / layout.CONFIG).exists():
        return load_run_settings(folder, overrides, file=file), ""
    given, _ = merge_sources(preset or "default", overrides, file=file)
    chosen, message = choose_model(given)
    settings = load_run_settings(folder, overrides, preset=chosen or preset, file=file)
    if creates and "dataset" in given:
        return settings, message
    # A mistyped folder must not become a new run on other data.
    require_run(folder, **({"how": _NEW_RUN} if creates else {}))
    if preset is None and "dataset" not in given:
        raise RunFolderError(_UNKNOWN.format(config=folder / layout.CONFIG))
    return settings, message


def choose_model(given: Mapping[str, Any]) -> tuple[str | None, str]:
    """Select the small pretrained model for `dataset=files` if it is installed.

    Args:
        given: Nested settings of all sources, without defaults.

    Returns:
        The preset of the small model, and a message for the user. Without the packages of the
        model, there is only a message; there is none if the settings name a model, another preset
        or another dataset.
    """
    model = given.get("model")
    names_model = isinstance(model, Mapping) and not _NAMES.isdisjoint(model)
    if given.get("dataset") != "files" or given.get("preset") != "default" or names_model:
        return None, ""
    if sources.missing_packages():
        return None, _DEMO.format(command=sources.installing_command())
    return _PRESET, _SMALL
