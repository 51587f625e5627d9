"""The README's Python blocks run, its files exist, and its tree names what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKS[number]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_tree_names_what_is_there() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    package = ROOT / "src" / "mllm_msr"
    named = set(re.findall(r"\b(\w+(?:\.py|/))(?=\s)", tree))
    inside = {p.name + "/" for p in package.iterdir() if (p / "__init__.py").exists()}
    assert inside <= named
    assert not [n for n in named if n.endswith(".py") and not (package / n).exists()]


def test_settings_in_shell_blocks_exist() -> None:
    from mllm_msr.config import load_settings

    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^mllm-msr run (.*)$", text, re.MULTILINE):
            load_settings("sound", [w for w in line.split() if "=" in w], environment={})


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make demo" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
