"""Structure of the code as described in `CONTRIBUTING.md`: layers, sizes, tests, vocabulary."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import grimp
import pytest

from tools import measure

# Modules that import torch, Transformers, Lightning, DeepSpeed or Matplotlib. Functions may import
# them, so that settings, data and finished runs can be read without loading these libraries.
LAZY_IMPORTS = {
    "mllm_msr.baselines._training.loop",
    "mllm_msr.evaluation.report.report",
    "mllm_msr.inference.engine.engine",
    "mllm_msr.models.inputs",
    "mllm_msr.models.loading",
    "mllm_msr.models.small.cache",
    "mllm_msr.ranker.alignment.examples",
    "mllm_msr.ranker.alignment.trainer",
    "mllm_msr.ranker.distributed.deepspeed",
    "mllm_msr.ranker.distributed.fsdp",
    "mllm_msr.ranker.training.callback",
    "mllm_msr.ranker.training.lora_linear",
    "mllm_msr.ranker.training.module",
    "mllm_msr.ranker.training.trackio_logger",
    "mllm_msr.ranker.training.trainer",
}

# A replaced term that is the name of an element of HTML.
ELEMENT_OF_HTML = ("src/mllm_msr/data/text_cleaning.py", "picture")

PROSE = sorted(measure.ROOT.glob("*.md"))


def assert_none(places: Iterable[object]) -> None:
    """Fail if there is any place, and list all places."""
    lines = [str(place) for place in places]
    assert not lines, "\n".join(["", *lines])


@pytest.fixture(scope="module")
def contract() -> dict:
    text = (measure.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["tool"]["importlinter"]["contracts"][0]


def test_the_import_contracts_hold() -> None:
    # In a separate process, because the import linter configures logging.
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=measure.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout


def test_every_top_level_module_has_a_layer(contract: dict) -> None:
    listed = [name for layer in contract["layers"] for name in layer.split(" : ")]
    assert contract["exhaustive"]
    assert len(contract["layers"]) == 11
    assert sorted(listed) == sorted([*measure.top_entries(), "__main__"])


def test_there_is_no_import_cycle() -> None:
    graph = grimp.build_graph("mllm_msr", cache_dir=None)
    # `mllm_msr/__init__.py` imports all public names, but only for type checkers.
    modules = {
        module: {
            imported
            for imported in graph.find_modules_directly_imported_by(module)
            if imported != "mllm_msr"
        }
        for module in graph.modules - {"mllm_msr"}
    }
    try:
        graphlib.TopologicalSorter(modules).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_files_and_functions_are_short() -> None:
    assert_none(f"{p} {n} lines" for p in measure.sources() if (n := measure.n_lines(p)) > 400)
    assert_none(place for place in measure.function_lengths() if int(place.value) > 60)


def test_there_are_few_top_level_modules() -> None:
    assert len(measure.top_entries()) <= 24


def test_every_module_has_a_test_file() -> None:
    assert_none(measure.unmirrored())


def test_everything_public_is_typed_and_documented() -> None:
    assert_none(measure.untyped_functions())
    assert_none(measure.undocumented())


def test_function_docstrings_begin_with_a_verb() -> None:
    total, others = len(measure.function_docstrings()), measure.not_verb_first()
    if len(others) > total // 10:
        assert_none(others)


def test_modules_of_the_package_are_imported_at_the_top_of_a_file() -> None:
    found = []
    for path in measure.sources():
        if path.is_relative_to(measure.PACKAGE / "cli"):
            continue
        for function, _ in measure.functions(path):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mllm_msr"):
                    names = {node.module} | {f"{node.module}.{name.name}" for name in node.names}
                    if not names & LAZY_IMPORTS:
                        found.append(f"{path}:{node.lineno} {node.module}")
    assert_none(found)


@pytest.mark.parametrize("folder", ["src", "recipes", "benchmarks", "docs", "examples", "root"])
def test_replaced_terms_are_not_used(folder: str) -> None:
    if folder == "root":
        paths = PROSE
    else:
        suffixes = {".py", ".md", ".ipynb", ".jinja", ".yaml", ".js", ".html", ".css", ".svg"}
        root: Path = measure.ROOT / folder
        paths = [p for p in sorted(root.rglob("*")) if p.suffix in suffixes]
        # Prompts and training questions of the demo model must not change.
        data = (
            measure.PACKAGE / "prompts/templates",
            measure.ROOT / "recipes/demo_model/questions.py",
        )
        paths = [p for p in paths if not any(p.is_relative_to(path) for path in data)]
    assert_none(
        f"{place.file}:{place.line} {place.name} -> {measure.REPLACED_TERMS[place.name.lower()]}"
        for place in measure.words(tuple(measure.REPLACED_TERMS), paths)
        if (place.file, place.name) != ELEMENT_OF_HTML
    )
