"""Fixtures of the tests of the small model: the installed packages and the real checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.models.small import sources


@pytest.fixture(scope="session")
def packages() -> None:
    """Skip a test that reads the real weights if their packages are not installed."""
    if missing := sources.missing_packages():
        pytest.skip(f"not installed: {', '.join(missing)}; see docs/models.md")


@pytest.fixture(scope="session")
def assembled(packages: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the real checkpoint with 16 tokens per image, assembled once."""
    from mllm_msr.models.small.assembly import assemble

    folder = tmp_path_factory.mktemp("smollm")
    assemble(folder, image_grid=4)
    return folder
