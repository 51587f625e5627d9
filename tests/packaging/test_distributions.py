"""The wheel and the source distribution, and the commands of the wheel outside the checkout.

The wheel is installed into a folder without its dependencies, which are those of this environment.
CI installs it into empty environments as well.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from mllm_msr.errors import EXTRAS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "mllm_msr"
SMALL = ("data.n_users=24", "data.n_items=40", "train.max_steps=2", "score.baselines=[item_knn]")


def build(source: Path, target: Path, kind: str) -> Path:
    """Build a distribution of a source folder and return its file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = target.glob({"wheel": "*.whl", "sdist": "*.tar.gz"}[kind])
    return file


def contents(wheel: Path) -> dict[str, int]:
    """Return the checksums of the files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist() if not entry.is_dir()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("dist"), "wheel")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        "--target",
        str(folder),
        str(wheel),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def run_command(installed: Path, folder: Path, *arguments: str) -> str:
    """Run `mllm-msr` of the installed wheel in a folder and return its output."""
    done = subprocess.run(
        [sys.executable, installed / "bin" / "mllm-msr", *arguments],
        cwd=folder,
        # Before the folder of the checkout, which the environment adds to the end of the path.
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_contains_every_file_of_the_package(wheel: Path) -> None:
    source = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in contents(wheel) if ".dist-info/" not in name} == source
    # Named here as well, so that deleting or moving one is noticed.
    for name in (
        *("py.typed", "_style/tokens.css", "config/presets/demo.yaml"),
        *("config/presets/models/qwen3-vl-2b.yaml", "demo_model/weights/model.safetensors"),
        *("evaluation/report/templates/report.html.jinja", "prompts/templates/recommend.jinja"),
        *("models/small/projector.safetensors", "prompts/templates/few_shot.yaml"),
        *("serving/page/index.html", "serving/page/page.js"),
    ):
        assert f"mllm_msr/{name}" in source


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build(ROOT, tmp_path / "sdist", "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("mllm_msr-*")
    pages = {path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")}
    assert {path for path in pages if not (source / path).is_file()} == set()
    assert contents(build(source, tmp_path / "wheel", "wheel")) == contents(wheel)


def test_the_metadata_state_versions_and_extras(metadata: Message) -> None:
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {*EXTRAS, "all", "small", "torchvision"} <= set(metadata.get_all("Provides-Extra", []))
    supported = [line.rpartition(" ")[2] for line in metadata.get_all("Classifier", [])]
    assert {"3.11", "3.12", "3.13"} <= set(supported)


def test_the_description_links_to_no_files_of_the_repository(metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str)
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert [link for link in links if not link.startswith("https://")] == []
    assert "https://arxiv.org/abs/2408.09698" in links
    for words in ("# MLLM-MSR", "The method comes from the paper", "## Results", "@inproceedings"):
        assert words in text
    assert "docs/" not in text


@pytest.mark.slow
def test_the_commands_of_the_wheel_run_outside_the_checkout(
    installed: Path, metadata: Message, tmp_path: Path
) -> None:
    assert (
        run_command(installed, tmp_path, "--version").strip() == f"mllm-msr {metadata['Version']}"
    )
    assert "qwen3-vl-2b" in run_command(installed, tmp_path, "list", "models")
    assert "interactions" in run_command(installed, tmp_path, "check")
    found = json.loads(run_command(installed, tmp_path, "doctor", "--quick", "--json"))
    (weights,) = (entry for entry in found["findings"] if entry["name"] == "demo model")
    assert weights["state"] == "ok"
    assert Path(weights["detail"]).is_relative_to(installed)
    # Without a checkout, commands for pip name the package.
    assert "-e " not in json.dumps(found)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    out = run_command(installed, tmp_path, "demo", "--run", "demo", "--json", *SMALL)
    assert "mllm_msr" in json.loads(out)["metrics"]
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert 'class="card' in page
