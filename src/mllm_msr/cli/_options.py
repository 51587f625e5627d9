"""Options that several commands share, and the settings in the help of a command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from mllm_msr.cli._app import Command
from mllm_msr.cli._completion import complete_preset, complete_setting

# Groups that are only read by commands for a finished run.
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
    typer.Option(
        "--preset",
        metavar="NAME",
        help="Preset to start from; see `mllm-msr list presets`.",
        autocompletion=complete_preset,
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file with settings.", parser=parse_path),
]
PortOption = Annotated[
    int,
    typer.Option(metavar="N", min=0, max=65535, help="Port to listen on; 0 selects a free one."),
]
AddressArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="Address in object storage: s3://..., gs://...")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Settings to change.", autocompletion=complete_setting
    ),
]


def settings_help(*sections: str, preset: str | None = None) -> type[Command]:
    """Return a command class whose help ends with the settings that the command reads.

    The settings are only loaded when the help is shown.

    Args:
        *sections: Groups of settings ("data"); by default, all of the offline pipeline.
        preset: Preset that the command starts from; its values that differ from the defaults are
            listed, except those of baselines.
    """

    class CommandWithSettings(Command):
        """Command whose help names the groups of its settings."""

        def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
            """Write the groups, and the values of the preset, below the options."""
            from mllm_msr.config.reference import GENERAL, groups

            read = sections or tuple(each for each in groups() if each not in _ONLINE_SECTIONS)
            with formatter.section("Settings (KEY=VALUE)"):
                names = ", ".join(name or GENERAL for name in read)
                formatter.write_text(
                    f"In the groups {names}." if len(read) > 1 else f"In the group {names}."
                )
                option = "" if preset is None else f" --preset {preset}"
                formatter.write_text(f"List them with: mllm-msr list settings GROUP{option}")
            if preset is None:
                return
            with formatter.section(f"Values of the preset {preset} that differ from the defaults"):
                formatter.write_dl(list(_preset_values(preset)))

    return CommandWithSettings


def _preset_values(preset: str) -> Iterator[tuple[str, str]]:
    """Yield (key=value, default) of the settings that a preset changes, without baselines."""
    from mllm_msr.config.loading import load_settings
    from mllm_msr.config.reference import reference

    values = reference(load_settings(preset, environment={}))
    for value, default in zip(values, reference(), strict=True):
        if value.default != default.default and not value.key.startswith(("baselines.", "preset")):
            yield f"{value.key}={value.default}", f"default: {default.default}"


def with_executor(settings: list[str] | None, name: str | None) -> list[str] | None:
    """Add the value of the option `--executor` to the settings; None leaves them unchanged."""
    return settings if name is None else [*(settings or ()), f"executor.name={name}"]


def split_names(text: str) -> list[str]:
    """Split comma-separated names; drop empty names and duplicates, and keep the order."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
