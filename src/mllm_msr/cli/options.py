"""Options that several commands share, and the list of settings in their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

_ALL: Final = (
    "", "data", "model", "executor", "summarize", "infer", "train", "score", "baselines", "evaluate",
    "report",
)  # fmt: skip

# Which sections of the settings a command's --help shows; "" stands for those without a section.
_SECTIONS: Final = {
    "prepare": ("", "data"),
    "summarize": ("model", "executor", "summarize"),
    "infer": ("model", "executor", "infer"),
    "train": ("model", "train"),
    "score": ("model", "executor", "score", "baselines"),
    "evaluate": ("evaluate",),
    "report": ("report",),
    "plan": (*_ALL, "plan"),
    "run": (*_ALL, "plan"),
    "demo": _ALL,
    "compare": _ALL,
    "tune": ("data", "baselines"),
    "experiment": _ALL,
}


class StageCommand(TyperCommand):
    """A command whose help ends with its settings; they are read only when help is asked for."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Append the settings of the command's sections."""
        from mllm_msr.config.loading import reference

        sections = _SECTIONS.get(self.name or "", ())
        rows = [
            (f"{key}={default}", description)
            for key, _, default, description in reference()
            if key.rpartition(".")[0] in sections
        ]
        if rows:
            with formatter.section("Settings (key=value, with their defaults)"):
                formatter.write_dl(rows)


RunOption = Annotated[Path, typer.Option("--run", metavar="DIR", help="The run folder.")]
ExecutorOption = Annotated[
    str | None,
    typer.Option("--executor", metavar="NAME", help="Short for executor.name=NAME: local, or ray."),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Redo finished work that other settings made.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="Preset to start from: default, paper, released-code, demo, ..."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="YAML file of settings.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, see below.")
]


def with_executor(settings: list[str] | None, name: str | None) -> list[str] | None:
    """Settings as given, and the executor's name where the option gives one."""
    return settings if name is None else [*(settings or ()), f"executor.name={name}"]
