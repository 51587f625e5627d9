"""Checks of the installation, against packages and folders that are made to be broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mllm_msr.backends.mock import MockBackend
from mllm_msr.errors import BackendError
from mllm_msr.interfaces import Backend
from mllm_msr.pipeline import doctor


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages, for this process and those that it starts."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_package_that_cannot_be_imported_is_broken(site: Path) -> None:
    (site / "halfway.py").write_text("raise ImportError('built for another torch')\n")
    found = doctor.check_package("halfway", extra="train")
    assert found.state == "broken"
    assert found.detail == "cannot be imported: ImportError: built for another torch"
    assert "--force-reinstall" in found.remedy
    assert doctor.check_package("halfway", deep=False).state == "ok"


def test_a_package_that_takes_its_importer_along_is_broken(site: Path) -> None:
    (site / "deadly.py").write_text("import os; os._exit(11)\n")
    assert doctor.check_package("deadly").detail == "cannot be imported: it ended with exit code 11"


def test_a_missing_extra_is_absent_and_a_missing_core_is_broken() -> None:
    found = doctor.check_package("no_such_package", extra="train")
    assert (found.state, found.remedy) == ("absent", "pip install 'mllm-msr[train]'")
    assert doctor.check_package("no_such_package").state == "broken"


def test_a_torchvision_that_cannot_be_imported_is_told_with_its_cure(site: Path) -> None:
    (site / "torchvision.py").write_text("raise RuntimeError('operator nms does not exist')\n")
    found = doctor.check_torchvision()
    assert found.state == "broken"
    assert "breaks image processors of Transformers: RuntimeError: operator nms" in found.detail
    assert found.remedy == "pip uninstall -y torchvision"


def test_a_torchvision_that_is_not_there_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    found = doctor.check_torchvision()
    assert (found.state, found.remedy) == ("ok", "")


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("5.19.0", "ok"),
        ("5.23.1", "ok"),
        ("5.18.2", "broken"),
        ("6.0.0", "broken"),
        ("0", "broken"),
    ],
)
def test_versions_of_transformers_outside_the_tested_ones_are_told(
    version: str, state: str
) -> None:
    assert doctor.check_transformers(version).state == state


def test_an_old_python_is_told() -> None:
    assert doctor.check_python((3, 10)).state == "broken"
    assert doctor.check_python(sys.version_info[:2]).state == "ok"


def test_incomplete_weights_are_named(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "chat_template.jinja"):
        (tmp_path / name).touch()
    assert doctor.check_weights(tmp_path).detail == "without model.safetensors"
    (tmp_path / "model.safetensors").touch()
    assert doctor.check_weights(tmp_path).state == "ok"


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    assert doctor.check_disk(tmp_path, needed=2**60).state == "broken"
    assert doctor.check_disk(tmp_path, needed=1).state == "ok"


def test_a_model_says_what_it_can_and_one_that_is_out_of_reach_says_why() -> None:
    found = doctor.check_backend("model", lambda: MockBackend(images=False))
    assert found.state == "ok"
    assert "(images no, yes/no scores yes, adapters no)" in found.detail

    def fail() -> Backend:
        raise BackendError(needed="a server", received="none", remedy="start it")

    found = doctor.check_backend("infer.model", fail)
    assert (found.state, found.detail, found.remedy) == ("broken", "received none", "start it")


def test_everything_is_looked_at() -> None:
    names = [finding.name for finding in doctor.examine(deep=False)]
    assert {"python", "torch", "peft", "torchvision", "packaged model", "disk"} <= set(names)
