"""The notebooks in `examples/`, executed on small data."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))

# The small pretrained model takes minutes.
SHORTER = {
    'backend = "smollm"': 'backend = "demo"',
    '"train.max_targets": 64': '"train.max_targets": 4, "data.n_negatives": 5',
    "write_shop.py $folder": "write_shop.py $folder --users 30 --books 40",
}


def execute(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Execute a notebook in a folder and return the outputs of its cells as text and HTML."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for long, short in SHORTER.items():
            cell.source = cell.source.replace(long, short)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(folder / ".jupyter"))
    client = NotebookClient(notebook, timeout=600, kernel_name="python3")
    client.execute(cwd=str(folder))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [one.text for one in outputs if "IProgress" in one.get("text", "")]
    return ["".join(_texts(output)) for output in outputs]


def _texts(output) -> list[str]:
    data = output.get("data", {})
    return [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs_and_valid(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert path.stat().st_size < 20_000


@pytest.mark.timeout(900)
def test_demo_tour(demo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(demo_run, tmp_path / "runs/demo")
    outputs = execute(EXAMPLES / "demo_tour.ipynb", tmp_path, monkeypatch)
    shown = "\n".join(outputs)
    assert "after 3 items: The user appears to have a preference for" in shown
    assert "MLLM-MSR" in shown
    assert "data:image/" in shown  # covers of a list
    assert "report.html" in shown


@pytest.mark.timeout(900)
def test_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    shown = "\n".join(execute(EXAMPLES / "own_data.ipynb", tmp_path, monkeypatch))
    assert "interactions file" in shown  # of the check
    assert "Content-kNN" in shown
    assert "p_holm" in shown
    assert (tmp_path / "runs/shop_notebook/report.html").is_file()


def test_every_notebook_is_tested_and_listed() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f'EXAMPLES / "{path.name}"' in source
        assert f"({path.name})" in listed
