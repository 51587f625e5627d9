"""Settings that are saved in a run folder as `config.yaml`, and their use by later commands.

The file ends with a comment that contains the hash of all lines above it, so that a damaged file is
noticed. It is YAML like any other settings file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mllm_msr.config import trust
from mllm_msr.config.loading import Overrides, load_settings, merge_sources, named_preset
from mllm_msr.config.settings import Settings
from mllm_msr.errors import DamagedFileError, SettingsError
from mllm_msr.storage import layout
from mllm_msr.storage.run_lookup import require_run

_CHECKSUM: Final = "# checksum of the lines above: "


def load_run_settings(
    folder: Path,
    overrides: Overrides = (),
    *,
    preset: str | None = None,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings of a command for a run folder.

    Args:
        folder: The run folder; need not exist.
        overrides: As for `load_settings`; take precedence over all files.
        preset: Preset to start from. None selects the settings that are saved in the folder if
            there are any, else the preset `default`.
        file: A YAML file of the user's own; takes precedence over the preset and the folder.
        environment: Environment variables, by default those of the process.

    Raises:
        SettingsError: A setting is wrong.
        UnknownNameError: The preset does not exist.
        DamagedFileError: The saved settings are not what a command has written.
        UsageError: The saved settings select hosts or keys that the user has not accepted.
    """
    preset, overrides = named_preset(preset, overrides)
    saved = folder / layout.CONFIG
    if preset is not None or not saved.exists():
        return load_settings(preset or "default", overrides, file=file, environment=environment)
    if file is not None and file.resolve() == saved.resolve():
        # The user names the folder's settings explicitly, for example after editing them.
        settings = load_settings(None, overrides, file=file, environment=environment)
    else:
        _require_intact(saved)
        files = [saved] if file is None else [saved, file]
        settings = load_settings(None, overrides, file=files, environment=environment)
        given, _ = merge_sources(None, overrides, file=file, environment=environment)
        variables = os.environ if environment is None else environment
        trust.require_trusted(folder, settings, given, variables)
    trust.remember(folder, settings)
    return settings


def load_finished_settings(folder: Path, overrides: Overrides = ()) -> Settings:
    """Return the settings of a run that is only read.

    Raises:
        RunFolderError: There is no such run.
        DamagedFileError: The folder has no saved settings, or they are damaged.
        SettingsError: A setting is wrong, or a preset is given.
        UsageError: The saved settings select hosts or keys that the user has not accepted.
    """
    folder = require_run(folder)
    if named_preset(None, overrides)[0] is not None:
        raise SettingsError(["A preset cannot replace the settings of a finished run. Leave it."])
    if not (folder / layout.CONFIG).exists():
        raise DamagedFileError(
            f"{folder / layout.CONFIG} is missing. Restore it, or run 'mllm-msr run --run "
            f"{folder}' with the settings of the run."
        )
    return load_run_settings(folder, overrides)


def with_checksum(text: str) -> str:
    """Return the text of `config.yaml` with its last line, the checksum."""
    return f"{text}{_CHECKSUM}{_digest(text)}\n"


def _require_intact(path: Path) -> None:
    """Raise an error unless a command has written a file of saved settings as it is.

    Raises:
        DamagedFileError: It was changed, or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{path} cannot be read ({error})"
    else:
        body, _, checksum = text.rpartition(_CHECKSUM)
        if checksum.removesuffix("\n") == _digest(body):
            return
        problem = f"{path} is not what a command has written"
    raise DamagedFileError(
        f"{problem}. Restore it. If you have edited it, accept it with 'mllm-msr run --run "
        f"{path.parent} --config {path}'."
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
