"""Tests of the documentation: examples run, commands and settings exist, links work.

The package list of the README must name every package and module at the top, and each list of
plugins, metrics or experiments must be complete.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer.main

from mllm_msr import experiments, registry
from mllm_msr.cli import app
from mllm_msr.config.loading import load_settings, override
from mllm_msr.errors import DamagedFileError
from mllm_msr.evaluation.metrics import Metric, descriptions
from mllm_msr.evaluation.ranked_lists import RankedLists
from mllm_msr.experiments._experiment import select_models
from mllm_msr.interfaces import Recommender, TrainingData
from tools import measure

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
# Names that users type, or labels that they read, by the page that lists them.
LISTS = {
    "own-data.md": registry.names("datasets"),
    "models.md": registry.names("backends"),
    "reproduce.md": [*registry.names("baselines"), *experiments.names()],
    "report.md": list(descriptions()),
}
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
for_each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def python_blocks(page: Path) -> list[str]:
    """Return the Python examples of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def without_blocks(page: Path) -> str:
    """Return the text of a page without its code blocks."""
    return re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(page: Path) -> list[list[str]]:
    """Return the words after `mllm-msr` of every command in a page's shell blocks."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
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


@pytest.mark.parametrize("number", range(len(python_blocks(ROOT / "README.md"))))
def test_python_examples_of_the_readme_run(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", python_blocks(ROOT / "README.md")[number]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
def test_python_examples_are_typed(tmp_path: Path) -> None:
    for page in (ROOT / "README.md", ROOT / "docs/quickstart.md", ROOT / "docs/python.md"):
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
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", README))
    assert linked == {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}


def test_the_readme_names_every_package() -> None:
    section = README.split("## Packages")[1].split("\n## ")[0]
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
        load_settings("default", [word for word in words if "=" in word], environment={})


def test_the_layers_in_the_guide_are_those_of_the_contract() -> None:
    rows = re.findall(r"^ +\| \d+ \| (.*) \|$", CONTRIBUTING.read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    documented = [sorted(re.findall(r"`(\w+)`", row)) for row in rows]
    declared = [sorted(set(layer.split(" : ")) - {"__main__"}) for layer in layers]
    assert documented == declared


def test_the_example_baseline_works(tmp_path: Path) -> None:
    kind = execute(python_blocks(CONTRIBUTING)[0])["LastSeen"]
    rows = [("u", "a", 0), ("u", "b", 1), ("v", "a", 0), ("v", "b", 1), ("w", "c", 0)]
    interactions = pl.DataFrame(rows, ["user_id", "item_id", "position"], orient="row")
    candidates = pl.DataFrame({"user_id": ["x", "x"], "position": [1, 1], "item_id": ["c", "b"]})
    history = pl.DataFrame({"user_id": ["x"], "item_id": ["a"], "position": [0]})
    data = TrainingData(interactions, pl.DataFrame(), pl.DataFrame(), frozenset("uvw"))
    model = kind().fit(data)
    assert isinstance(model, Recommender)
    assert model.label
    assert model.score(candidates, history)["score"].to_list() == [0.0, 2.0]
    model.save(tmp_path)
    assert kind.load(tmp_path).score(candidates, history)["score"].to_list() == [0.0, 2.0]
    with pytest.raises(DamagedFileError, match=r"pairs\.parquet"):
        kind.load(tmp_path / "absent")


def test_the_example_metric_works() -> None:
    metric = execute(python_blocks(CONTRIBUTING)[1])["RelativeRank"]()
    assert isinstance(metric, Metric)
    rows = [(0, 1, 0.5), (0, 0, 0.9), (0, 0, 0.1), (0, 0, 0.2)]  # rank 2 of 4
    rows += [(1, 1, 0.5), (1, 0, 0.5), (1, 0, 0.5), (1, 0, 0.5)]  # ranks 1 to 4 are equally likely
    _, lists = RankedLists.from_scores(pl.DataFrame(rows, ["list", "label", "score"], orient="row"))
    assert metric.compute(lists).tolist() == [0.5, 0.625]


def test_the_example_experiment_works() -> None:
    experiment = execute(python_blocks(CONTRIBUTING)[2])["EXPERIMENT"]
    settings = load_settings("demo", environment={})
    systems = experiment.systems(settings)
    models = [system.model for system in systems if system.model]
    assert override(settings, select_models(models)).score.baselines == ("item_knn",)
    changes = [system.variant.overrides for system in systems if system.variant]
    assert [override(settings, change).infer.words for change in changes] == [10]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make demo" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
