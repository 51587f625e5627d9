"""Content vectors: rows in their places, zeros where nothing is, computed once."""

from __future__ import annotations

import logging

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mllm_msr.baselines._content.features import content_vectors
from mllm_msr.baselines._content.offline_encoders import ColourEncoder, HashingEncoder
from mllm_msr.tables import ITEMS


@pytest.fixture
def items(tmp_path):
    noise = np.random.default_rng(0)
    for name in ("a", "c"):
        pixels = noise.integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    rows = [
        ("a", "A red lantern", "It glows.", str(tmp_path / "a.png")),
        ("b", None, "  ", str(tmp_path / "broken.png")),
        ("c", "A red lantern", "It glows.", str(tmp_path / "c.png")),
        ("d", "Mountain", None, None),
        ("e", "", "Snow", str(tmp_path / "absent.png")),
    ]
    return pl.DataFrame(rows, schema=dict(ITEMS), orient="row")


def test_rows_follow_the_table_and_gaps_are_zero(items, caplog):
    with caplog.at_level(logging.WARNING):
        found = content_vectors(items)
    assert found.item_ids == ("a", "b", "c", "d", "e")
    assert found.text.dtype == found.image.dtype == np.float32
    assert found.text.any(axis=1).tolist() == [True, False, True, True, True]
    assert found.image.any(axis=1).tolist() == [True, False, True, False, False]
    assert np.allclose(found.text[0], found.text[2], atol=1e-6)
    assert "2 of 4 images cannot be read" in caplog.text


def test_a_modality_may_be_left_out(items):
    found = content_vectors(items, text_encoder="none", image_encoder="none")
    assert found.text.shape == found.image.shape == (5, 0)


def test_nothing_to_encode_leaves_zeros(items):
    bare = items.with_columns(title=None, text=None, image=None)
    found = content_vectors(bare)
    assert found.text.shape[0] == 5
    assert not found.text.any()
    assert not found.image.any()
    assert content_vectors(items[:0]).text.shape[0] == 0


def refuse_to_encode(monkeypatch):
    def refuse(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(HashingEncoder, "encode", refuse)
    monkeypatch.setattr(ColourEncoder, "encode", refuse)


def test_kept_vectors_are_read_again(items, tmp_path, monkeypatch):
    first = content_vectors(items, cache=tmp_path / "kept")
    refuse_to_encode(monkeypatch)
    again = content_vectors(items, cache=tmp_path / "kept")
    assert np.array_equal(first.text, again.text)
    assert np.array_equal(first.image, again.image)


@pytest.mark.parametrize("change", ["text", "image"])
def test_other_content_is_encoded_anew(items, tmp_path, monkeypatch, change):
    content_vectors(items, cache=tmp_path / "kept")
    refuse_to_encode(monkeypatch)
    if change == "text":
        items = items.with_columns(text=pl.lit("Other words."))
    else:
        Image.new("RGB", (8, 8), "green").save(tmp_path / "a.png")
    with pytest.raises(AssertionError, match="encoded again"):
        content_vectors(items, cache=tmp_path / "kept")


def test_damaged_vectors_are_made_again(items, tmp_path, caplog):
    first = content_vectors(items, cache=tmp_path / "kept")
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        again = content_vectors(items, cache=tmp_path / "kept")
    assert np.array_equal(first.image, again.image)
    assert "made again" in caplog.text
