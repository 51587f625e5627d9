"""Options that several commands share, and the list of settings in a command's help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

# Sections that are only read by commands for a finished run.
_ONLINE_SECTIONS: Final = ("retrieve", "serve")


def parse_path(text: str | Path) -> Path:
    """Return the path in an option or argument.

    Raises:
        typer.BadParameter: It is blank, as an unset variable of the shell is; `Path` would turn it
            into the current folder.
    """
    if not str(text).strip():
        raise typer.BadParameter("The path is empty. Give a path, or '.' for the current folder.")
    return Path(text)


RunOption = Annotated[
    Path, typer.Option("--run", metavar="DIR", help="Run folder.", parser=parse_path)
]
ExecutorOption = Annotated[
    str | None,
    typer.Option("--executor", metavar="NAME", help="Short for executor.name=NAME: local or ray."),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Run the stages again even if they are finished.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="Preset to start from; see `mllm-msr list presets`."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file with settings.", parser=parse_path),
]
PortOption = Annotated[
    int, typer.Option(min=0, max=65535, help="Port to listen on; 0 selects a free one.")
]
AddressArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="Address in object storage: s3://..., gs://...")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")
]


def settings_help(*sections: str, preset: str | None = None) -> type[TyperCommand]:
    """Return a command class whose help ends with the settings that the command reads.

    The settings are only loaded when the help is shown.

    Args:
        *sections: Sections to list, for example "data"; "" means settings without a section.
            By default, all sections of the offline pipeline.
        preset: Preset that the command starts from, whose values are listed; None lists the
            defaults.
    """

    class CommandWithSettings(TyperCommand):
        """Command whose help lists settings and their defaults."""

        def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
            """Write the settings below the options."""
            from mllm_msr.config.loading import load_settings
            from mllm_msr.config.reference import reference

            settings = None if preset is None else load_settings(preset, environment={})
            rows = []
            for key, _, default, description in reference(settings):
                section = key.rpartition(".")[0]
                listed = section in sections if sections else section not in _ONLINE_SECTIONS
                if listed:
                    rows.append((f"{key}={default}", description))
            source = "defaults" if preset is None else f"values in the preset {preset}"
            with formatter.section(f"Settings (key=value, with their {source})"):
                formatter.write_dl(rows)

    return CommandWithSettings


def with_executor(settings: list[str] | None, name: str | None) -> list[str] | None:
    """Add the value of the option `--executor` to the settings; None leaves them unchanged."""
    return settings if name is None else [*(settings or ()), f"executor.name={name}"]


def split_names(text: str) -> list[str]:
    """Split comma-separated names; drop empty names and duplicates, and keep the order."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
