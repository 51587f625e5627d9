"""Generate docs/settings.md and docs/commands.md from the code, or check that they are current.

python docs/generate.py            write both files
python docs/generate.py --check    exit with code 1 if a file is out of date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import typer.main
from typer.testing import CliRunner

from mllm_msr.cli import app
from mllm_msr.config.loading import preset_names
from mllm_msr.config.reference import reference

DOCS = Path(__file__).parent


def settings_page() -> str:
    """Return the page of all settings: type, default and description of each."""
    lines = [
        "# Settings",
        "",
        "Generated from `config/settings.py` by `make docs`.",
        "",
        "A setting is `key=value` on the command line, YAML in a file (`--config FILE`), and an",
        "environment variable such as `MLLM_MSR__TRAIN__SEED=1`. Later sources win: preset, file,",
        "environment, command line. A source that selects another dataset or backend removes the",
        "arguments (`data.*`, `model.*`) of the replaced one that the new one does not take.",
        "",
        f"Presets: {', '.join(f'`{name}`' for name in preset_names())}.",
        "",
        "| setting | type | default | description |",
        "|---|---|---|---|",
    ]
    for setting in reference():
        cells = (
            f"`{setting.key}`",
            f"`{setting.type}`",
            f"`{setting.default}`",
            setting.description,
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return the page with the help of every command."""
    runner = CliRunner()
    terminal = {"COLUMNS": "100", "TERM": "dumb"}
    names = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    lines = ["# Commands", "", "Generated from the command line by `make docs`.", ""]
    for name in names:
        shown = runner.invoke(app, [name, "--help"], env=terminal, prog_name="mllm-msr")
        lines += [f"## `mllm-msr {name}`", "", "```text", shown.output.strip(), "```", ""]
    return "\n".join(lines)


def main() -> int:
    """Write the pages, or check them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = 0
    for name, text in [("settings.md", settings_page()), ("commands.md", commands_page())]:
        path = DOCS / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            print(f"{path.name} is out of date: run 'make docs'", file=sys.stderr)
            stale = 1
        else:
            path.write_text(text, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
