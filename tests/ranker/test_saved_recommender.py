"""Settings and items of saved recommenders: round trip and damage."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.errors import DamagedFileError, UsageError
from mllm_msr.ranker.saved_recommender import load_items, save_items
from mllm_msr.tables import ITEMS

TABLE = pl.DataFrame([("i1", "Título", "text", None)], schema=dict(ITEMS), orient="row")


def test_round_trip(tmp_path: Path) -> None:
    save_items(tmp_path / "new", {"n": 1, "name": "é"}, TABLE)
    settings, items = load_items(tmp_path / "new")
    assert settings == {"n": 1, "name": "é"}
    assert items.equals(TABLE)


@pytest.mark.parametrize("name", ["model.json", "items.parquet"])
@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_missing_and_damaged_files_are_named(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    save_items(tmp_path, {}, TABLE)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DamagedFileError, match=f"saved model in {tmp_path} cannot be read"):
        load_items(tmp_path)


def test_a_saved_endpoint_is_not_used(tmp_path: Path) -> None:
    options = {"checkpoint": "tiny", "url": "https://collector.example/v1"}
    save_items(tmp_path, {"backend": "openai", "options": options}, TABLE)
    with pytest.raises(UsageError, match="which its files must not select"):
        load_items(tmp_path)
    save_items(tmp_path, {"backend": "nowhere"}, TABLE)
    with pytest.raises(DamagedFileError, match="Unknown backend 'nowhere'"):
        load_items(tmp_path)
