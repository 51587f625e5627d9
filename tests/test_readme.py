"""Tests of the documentation: examples run, commands and settings exist, links work.

The list of packages must name every package and module at the top, and each list of plugins,
metrics or experiments must be complete. `tests/docs/` has tests of the site.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from mllm_msr import experiments, registry
from mllm_msr.cli import app
from mllm_msr.config.loading import load_settings, override
from mllm_msr.config.settings import Settings
from mllm_msr.evaluation.metrics import descriptions
from mllm_msr.experiments._experiment import select_models
from tools import measure

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
# Pages whose Python examples `tests/test_demo.py` executes.
EXECUTED = ("README.md", "docs/python.md", "docs/tutorials/notebook.md")
# Names that users type, or labels that they read, by the page that lists them.
LISTS = {
    "own-data.md": registry.names("datasets"),
    "models.md": registry.names("backends"),
    "reproduce.md": [*registry.names("baselines"), *experiments.names()],
    "report.md": list(descriptions()),
}
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
for_each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda path: str(path.relative_to(ROOT).with_suffix(""))
)


def blocks_of(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)


def python_blocks(page: Path) -> list[str]:
    """Return the Python examples of a page."""
    return blocks_of(page, "python")


def without_blocks(page: Path) -> str:
    """Return the text of a page without its code blocks."""
    return re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    text = without_blocks(page)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    headings = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return headings | set(re.findall(r'<a id="([^"]+)"', text))


def commands(page: Path) -> list[list[str]]:
    """Return the words after `mllm-msr` of every command in a page's shell blocks."""
    blocks = blocks_of(page, "sh")
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    found = []
    for words in split:
        starts = [at for at, word in enumerate(words) if word.split("/")[-1] == "mllm-msr"]
        found += [words[start + 1 :] for start in starts]
    return found


def execute(block: str) -> dict[str, Any]:
    """Execute a Python example and return what it defines."""
    defined: dict[str, Any] = {}
    exec(block, defined)
    return defined


def test_python_examples_are_on_pages_that_are_tested() -> None:
    pages = {str(page.relative_to(ROOT)) for page in PAGES if python_blocks(page)}
    elsewhere = {"CONTRIBUTING.md", "docs/integrations.md"}  # below; serving/test_rerank_routes.py
    assert pages == {*EXECUTED, *elsewhere}


@for_each_page
def test_blocks_of_yaml_and_json_are_valid(page: Path) -> None:
    for block in blocks_of(page, "yaml"):
        settings = yaml.safe_load(block)
        for section, keys in settings.items():
            assert section in Settings.model_fields, f"{page.name}: {section}"
            known = Settings.model_fields[section].annotation
            for key in keys if isinstance(keys, dict) else ():
                assert known.model_config["extra"] == "allow" or key in known.model_fields, key
    for block in blocks_of(page, "json"):
        json.loads(block)


@pytest.mark.slow
def test_python_examples_are_typed(tmp_path: Path) -> None:
    for page in (ROOT / name for name in EXECUTED):
        code = "\n".join(python_blocks(page))
        (tmp_path / f"{page.stem.lower()}_example.py").write_text(code, encoding="utf-8")
    (tmp_path / "typo_example.py").write_text("import mllm_msr\n\nmllm_msr.Pipelin\n")
    files = sorted(map(str, tmp_path.glob("*_example.py")))
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert 'typo_example.py:3: error: Module has no attribute "Pipelin"' in errors[0]


@for_each_page
def test_links_work(page: Path) -> None:
    for link in re.findall(r"\]\(([^):]+)\)", without_blocks(page)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_the_readme_links_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[\w/-]+\.md)", README))
    assert linked == {str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 125


def test_values_in_the_readme_are_those_of_the_results() -> None:
    values = re.findall(r"\.\d{3} \[\.\d{3}, \.\d{3}\]", README)
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert len(values) == 17
    assert [value for value in values if value not in results] == []


def test_the_guide_names_every_package() -> None:
    section = CONTRIBUTING.read_text(encoding="utf-8").split("## Where things are")[1]
    section = section.split("Three rules")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == measure.top_entries()


@pytest.mark.parametrize(("page", "names"), LISTS.items())
def test_lists_of_plugins_metrics_and_experiments_are_complete(page: str, names: list[str]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    missing = [name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", rows)]
    assert missing == [], f"Add a row to a table in docs/{page}."


@for_each_page
def test_commands_in_shell_blocks_are_valid(page: Path) -> None:
    program = typer.main.get_command(app)
    for words in commands(page):
        context = program.make_context("mllm-msr", list(words))
        name, command, rest = program.resolve_command(context, words)
        given = command.make_context(name, rest, parent=context).params
        preset = given.get("preset") or ("demo" if name == "demo" else "default")
        load_settings(preset, given.get("settings") or [], environment={})


@for_each_page
def test_commands_in_sentences_exist(page: Path) -> None:
    known = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in typer.main.get_command(app).commands.items()
    }
    for text in re.findall(r"`mllm-msr ([a-z][^`]*)`", without_blocks(page)):
        name, *words = text.split()
        assert name in known, f"mllm-msr {text}"
        unknown = {word for word in words if re.match(r"--?[a-z]", word)} - known[name]
        assert unknown <= {"--help"}, f"mllm-msr {text}"
        preset = words[words.index("--preset") + 1] if "--preset" in words else "default"
        load_settings(preset, [word for word in words if "=" in word], environment={})


def test_the_layers_in_the_guide_are_those_of_the_contract() -> None:
    rows = re.findall(r"^ +\| \d+ \| (.*) \|$", CONTRIBUTING.read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    documented = [sorted(re.findall(r"`(\w+)`", row)) for row in rows]
    declared = [sorted(set(layer.split(" : ")) - {"__main__"}) for layer in layers]
    assert documented == declared


def test_the_example_experiment_works() -> None:
    experiment = execute(python_blocks(CONTRIBUTING)[0])["EXPERIMENT"]
    settings = load_settings("demo", environment={})
    systems = experiment.systems(settings)
    models = [system.model for system in systems if system.model]
    assert override(settings, select_models(models)).score.baselines == ("item_knn",)
    changes = [system.variant.overrides for system in systems if system.variant]
    assert [override(settings, change).infer.words for change in changes] == [10]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make demo" in README
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_demo_is_installed_with_the_service_that_the_readme_starts() -> None:
    commands = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo\n.venv/bin/mllm-msr demo --serve\n" in commands
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\n.venv/.ready: ")[1]
    assert "serve" in recipe.split("'.[")[1].split("]")[0].split(",")
