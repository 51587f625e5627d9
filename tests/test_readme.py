"""The documentation is true: blocks run, commands and settings exist, links lead somewhere.

The README's tree must name every module and folder of the package.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
OF_PAGES = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def without_blocks(page: Path) -> str:
    return re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def anchors(page: Path) -> set[str]:
    """Names that headings get where the pages are shown."""
    titles = re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(page: Path) -> list[list[str]]:
    """The words after `mllm-msr` of every command in a page's shell blocks."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    return [words[words.index("mllm-msr") + 1 :] for words in split if "mllm-msr" in words]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_blocks_run(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BLOCKS[number]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@OF_PAGES
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^):]+)\)", without_blocks(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_the_tree_names_what_is_there() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    package = ROOT / "src" / "mllm_msr"
    named = set(re.findall(r"^ +(\w+(?:\.py|/))(?=\s)", tree, re.MULTILINE))
    inside = {path.name for path in package.glob("[!_]*.py")}
    inside |= {path.parent.name + "/" for path in package.glob("*/__init__.py")}
    assert named - {"presets/", "templates/"} == inside


@OF_PAGES
def test_commands_in_shell_blocks_can_be_given(page: Path) -> None:
    import typer.main

    from mllm_msr.cli import app
    from mllm_msr.config.loading import load_settings

    program = typer.main.get_command(app)
    for words in commands(page):
        context = program.make_context("mllm-msr", list(words))
        name, command, rest = program.resolve_command(context, words)
        given = command.make_context(name, rest, parent=context).params
        preset = given.get("preset") or ("demo" if name == "demo" else "default")
        load_settings(preset, given.get("settings") or [], environment={})


@OF_PAGES
def test_commands_in_sentences_exist(page: Path) -> None:
    import typer.main

    from mllm_msr.cli import app
    from mllm_msr.config.loading import load_settings

    known = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in typer.main.get_command(app).commands.items()
    }
    for text in re.findall(r"`mllm-msr ([a-z][^`]*)`", without_blocks(page)):
        name, *words = text.split()
        assert name in known, f"mllm-msr {text}"
        unknown = {word for word in words if re.match(r"--?[a-z]", word)} - known[name]
        assert unknown <= {"--help"}, f"mllm-msr {text}"
        load_settings("default", [word for word in words if "=" in word], environment={})


def test_the_example_of_a_baseline_is_one() -> None:
    import polars as pl

    from mllm_msr.interfaces import Recommender, TrainingData

    source = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", source, re.DOTALL)[0], names)
    chosen = [("u", "a", 0), ("u", "b", 1), ("v", "a", 0), ("v", "b", 1), ("w", "c", 0)]
    interactions = pl.DataFrame(chosen, ["user_id", "item_id", "position"], orient="row")
    asked = pl.DataFrame({"user_id": ["x", "x"], "position": [1, 1], "item_id": ["c", "b"]})
    history = pl.DataFrame({"user_id": ["x"], "item_id": ["a"], "position": [0]})
    data = TrainingData(interactions, pl.DataFrame(), pl.DataFrame(), frozenset("uvw"))
    model = names["LastSeen"]().fit(data)  # type: ignore[operator]
    assert isinstance(model, Recommender)
    assert model.score(asked, history)["score"].to_list() == [0.0, 2.0]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make demo" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
