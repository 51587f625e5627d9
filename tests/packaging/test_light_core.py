"""The package without any extra: commands for data and evaluation, and errors that name the extra.

A subprocess runs the command line while the packages of the extras cannot be found.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.errors import EXTRAS

ROOT = Path(__file__).parents[2]
# Top-level packages of all extras, and those that they bring along.
HIDDEN = sorted(
    {name.partition(".")[0] for names in EXTRAS.values() for name in names}
    | {"tokenizers", "torchvision", "gguf", "pandas"}
)
MODELS = ("torch", "transformers", "peft", "lightning")
PROGRAM = """
import importlib.machinery, sys

class WithoutExtras(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            return None
        return super().find_spec(name, path, target)

place = sys.meta_path.index(importlib.machinery.PathFinder)
sys.meta_path[place] = WithoutExtras
"""


def run_python(
    code: str, *arguments: str, folder: Path, hidden: Sequence[str] = HIDDEN
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"HIDDEN = {list(hidden)}\n{PROGRAM}{code}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def run_command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return run_python("from mllm_msr.cli import main; main()", *arguments, folder=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a prepared run in `run`."""
    made = tmp_path_factory.mktemp("light")
    done = run_command("prepare", "dataset=demo", "--run", "run", folder=made)
    assert done.returncode == 0, done.stderr
    return made


def test_the_dependencies_are_light() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = " ".join(project["dependencies"])
    for heavy in ("torch", "transformers", "matplotlib", "scipy", "lightning", "fastapi"):
        assert heavy not in required


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["help", "evaluate"],
        ["list"],
        ["check"],
        ["doctor", "--quick"],
    ],
    ids=" ".join,
)
def test_commands_run_without_extras(folder: Path, arguments: list[str]) -> None:
    done = run_command(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_doctor_lists_the_missing_extras_with_their_commands(folder: Path) -> None:
    found = json.loads(run_command("doctor", "--quick", "--json", folder=folder).stdout)
    absent = {
        entry["name"]: entry["fix"] for entry in found["findings"] if entry["state"] == "absent"
    }
    for extra, names in EXTRAS.items():
        for name in names:
            assert f"[{extra}]" in absent[f"{name} ({extra})"]
    assert found["broken"] == 0


def test_scores_of_other_programs_are_evaluated(folder: Path) -> None:
    candidates = pl.read_parquet(folder / "run" / "candidates.parquet")
    candidates = candidates.filter(pl.col("split") == "test")
    candidates.write_parquet(folder / "candidates.parquet")
    scores = candidates.with_columns(score=pl.col("label").cast(pl.Float64))
    scores.write_parquet(folder / "perfect.parquet")
    done = run_command(
        *("evaluate", "--candidates", "candidates.parquet", "--scores", "perfect.parquet"),
        "--json",
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["perfect"]["uniform"]["auc"]["mean"] == 1.0


def test_popularity_is_compared_and_reported_without_figures(folder: Path) -> None:
    done = run_command("compare", "--models", "popularity", "--run", "run", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "Popularity" in done.stdout
    assert "mllm-msr[report]" in done.stderr
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "Popularity" in page
    assert "<h2>Figures" not in page


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["demo", "--run", "demo"], "train"),
        (["run", "dataset=demo", "train.enabled=false", "--run", "demo"], "models"),
        (["compare", "--models", "item_knn", "--run", "run"], "baselines"),
        (["compare", "--models", "sasrec", "--run", "run"], "models"),
        (["recommend", "--user", "u0001", "--run", "run"], "baselines"),
        (["experiment", "table1", "--run", "run"], "report"),
        (["serve", "--run", "run"], "serve"),
        (["mcp", "--run", "run"], "serve"),
        (["tune", "--models", "popularity", "--trials", "1", "--run", "run"], "tune"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_commands_that_need_an_extra_name_it(
    folder: Path, arguments: list[str], extra: str
) -> None:
    done = run_command(*arguments, folder=folder)
    assert done.returncode == 2, done.stderr
    assert f"it is part of mllm-msr[{extra}]. Run: pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_python_users_get_the_same_errors(folder: Path) -> None:
    code = """
import mllm_msr
for access in (lambda: mllm_msr.MllmMsr, lambda: mllm_msr.registry.find("baselines", "gru4rec")):
    try:
        access()
    except mllm_msr.MllmMsrError as error:
        print(error)
"""
    done = run_python(code, folder=folder)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "mllm-msr[baselines]" in first
    assert "mllm-msr[models]" in second


def test_the_service_and_endpoints_need_no_torch(folder: Path) -> None:
    for package in (*EXTRAS["serve"], *EXTRAS["mcp"]):
        pytest.importorskip(package)
    code = """
import mllm_msr.recommend.recommender, mllm_msr.serving.server, mllm_msr.serving.mcp_server
from mllm_msr import registry
for kind, names in {
    "backends": ["openai", "mock"],
    "baselines": ["content_knn", "hybrid", "item_knn", "popularity", "transitions"],
}.items():
    for name in names:
        registry.find(kind, name)
"""
    done = run_python(code, folder=folder, hidden=MODELS)
    assert done.returncode == 0, done.stderr
