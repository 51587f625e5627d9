"""Make docs/settings.md and docs/commands.md from the code, or check that they are current.

python docs/generate.py            write them
python docs/generate.py --check    exit with 1 where one is stale
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import typer.main
from typer.testing import CliRunner

from mllm_msr.cli import app
from mllm_msr.config.loading import preset_names, reference

DOCS = Path(__file__).parent


def settings_page() -> str:
    """Every setting with its type, default and meaning."""
    lines = [
        "# Settings",
        "",
        "Made by `make docs` from `config/settings.py`. On the command line a setting is `key=value`,",
        "in a file it is YAML (`--config FILE`), in the environment `MLLM_MSR__TRAIN__SEED=1`.",
        "Of preset, file, environment and command line the later wins.",
        "",
        f"Presets: {', '.join(f'`{name}`' for name in preset_names())}.",
        "",
        "| setting | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for key, kind, default, description in reference():
        cells = (f"`{key}`", f"`{kind}`", f"`{default}`", description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """The help of every command."""
    runner = CliRunner()
    width = {"COLUMNS": "100", "TERM": "dumb"}
    names = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    lines = ["# Commands", "", "Made by `make docs` from the command line itself.", ""]
    for name in names:
        shown = runner.invoke(app, [name, "--help"], env=width, prog_name="mllm-msr")
        lines += [f"## `mllm-msr {name}`", "", "```text", shown.output.strip(), "```", ""]
    return "\n".join(lines)


def main() -> int:
    """Write or check the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = 0
    for name, text in [("settings.md", settings_page()), ("commands.md", commands_page())]:
        path = DOCS / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            print(f"{path.name} is stale: run 'make docs'", file=sys.stderr)
            stale = 1
        else:
            path.write_text(text, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
