"""The user's cache follows the XDG base directory specification."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllm_msr.storage.user_cache import user_cache


def test_the_folder_is_below_the_cache_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "mllm-msr"


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_the_default_is_in_the_home_folder(
    value: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", value or "")
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache() == tmp_path / ".cache" / "mllm-msr"
