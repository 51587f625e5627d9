"""`experiment`: prints the page of a table or figure."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mllm_msr.errors import UnknownNameError, UsageError


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_it_prints_the_page_and_the_folder(invoke, run: Path) -> None:
    done = invoke("experiment", "figure4", "--run", run)
    assert done.exit_code == 0, done.output
    folder = run / "experiments" / "figure4"
    assert done.stdout.startswith((folder / "figure4.md").read_text())
    assert done.stdout.endswith(f"results: {folder}\n")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["figure44"], UnknownNameError, "Unknown experiment 'figure44'. Did you mean 'figure4'?"),
        (["figure4", "--seeds", "1,x"], UsageError, "--seeds='1,x' is not a list of non-negative"),
        (["figure4", "--seeds", ","], UsageError, "--seeds=',' is not a list of non-negative"),
        (["figure4", "--systems", "mgat"], UnknownNameError, "Unknown system 'mgat'."),
        (["figure4", "--systems", ","], UnknownNameError, "No system is given."),
    ],
)
def test_invalid_arguments_are_rejected(
    fail, run: Path, arguments: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        fail("experiment", *arguments, "--run", run)
    assert str(caught.value).startswith(message)
