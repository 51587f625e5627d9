"""Public names of the package: they resolve, load lazily, and are visible to type checkers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mllm_msr


@pytest.mark.parametrize("name", mllm_msr.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(mllm_msr, name) is not None
    assert name in dir(mllm_msr)


def test_other_names_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        mllm_msr.Pipelin  # noqa: B018 - the access is the test


def test_the_imports_for_type_checkers_are_the_lazy_imports() -> None:
    tree = ast.parse(Path(mllm_msr.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imported = {
        alias.name: statement.module.removeprefix("mllm_msr.")
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }
    assert imported == mllm_msr._MODULES


def test_every_lazy_import_is_exported() -> None:
    assert set(mllm_msr.__all__) == {"__version__", *mllm_msr._MODULES}


def test_importing_the_package_loads_no_public_module() -> None:
    code = (
        "import sys, mllm_msr;"
        "sys.exit(str(sorted(name for name in sys.modules if name.startswith('mllm_msr.'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "mllm_msr", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
