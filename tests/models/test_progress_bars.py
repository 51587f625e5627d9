"""Progress bars of Transformers during loading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.utils import logging

from mllm_msr.models.progress_bars import hide_bars


@pytest.fixture(autouse=True)
def bars(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = logging.is_progress_bar_enabled()
    monkeypatch.setattr(logging, "_tqdm_active", True)
    yield
    (logging.enable_progress_bar if before else logging.disable_progress_bar)()


def test_bars_are_hidden_for_folders_and_come_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with hide_bars(str(tmp_path)):
            list(logging.tqdm(range(3), desc="Loading weights"))
            raise RuntimeError("damaged")

    with pytest.raises(RuntimeError, match="damaged"):
        fail()
    assert capfd.readouterr().err == ""
    assert logging.is_progress_bar_enabled()


def test_downloads_show_their_bars(capfd: pytest.CaptureFixture[str]) -> None:
    with hide_bars("somebody/checkpoint"):
        list(logging.tqdm(range(3), desc="model.safetensors"))
    assert "model.safetensors" in capfd.readouterr().err


def test_bars_that_are_off_stay_off(tmp_path: Path) -> None:
    logging.disable_progress_bar()
    with hide_bars(str(tmp_path)):
        assert not logging.is_progress_bar_enabled()
    assert not logging.is_progress_bar_enabled()
