"""Content vectors: one row per item, zero rows for absent content, cached after the first call."""

from __future__ import annotations

import logging

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mllm_msr.baselines._content.features import content_vectors
from mllm_msr.models.encoders.image.colors import ColorEncoder
from mllm_msr.models.encoders.text.hashing import HashingEncoder
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


def test_rows_follow_the_table_and_absent_content_is_zero(items, caplog):
    with caplog.at_level(logging.WARNING):
        found = content_vectors(items)
    assert found.item_ids == ("a", "b", "c", "d", "e")
    assert found.text.dtype == found.image.dtype == np.float32
    assert found.text.any(axis=1).tolist() == [True, False, True, True, True]
    assert found.image.any(axis=1).tolist() == [True, False, True, False, False]
    assert np.allclose(found.text[0], found.text[2], atol=1e-6)
    assert "2 of 4 images cannot be read" in caplog.text


def test_a_modality_can_be_left_out(items):
    found = content_vectors(items, text_encoder="none", image_encoder="none")
    assert found.text.shape == found.image.shape == (5, 0)


def test_items_without_content_get_zero_vectors(items):
    bare = items.with_columns(title=None, text=None, image=None)
    found = content_vectors(bare)
    assert found.text.shape[0] == 5
    assert not found.text.any()
    assert not found.image.any()
    assert content_vectors(items[:0]).text.shape[0] == 0


def forbid_encoding(monkeypatch):
    def fail(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(HashingEncoder, "encode", fail)
    monkeypatch.setattr(ColorEncoder, "encode", fail)


def test_cached_vectors_are_reused(items, tmp_path, monkeypatch):
    first = content_vectors(items, cache=tmp_path / "cache")
    forbid_encoding(monkeypatch)
    second = content_vectors(items, cache=tmp_path / "cache")
    assert np.array_equal(first.text, second.text)
    assert np.array_equal(first.image, second.image)


@pytest.mark.parametrize("change", ["text", "image"])
def test_changed_content_is_encoded_again(items, tmp_path, monkeypatch, change):
    content_vectors(items, cache=tmp_path / "cache")
    forbid_encoding(monkeypatch)
    if change == "text":
        items = items.with_columns(text=pl.lit("Other words."))
    else:
        Image.new("RGB", (8, 8), "green").save(tmp_path / "a.png")
    with pytest.raises(AssertionError, match="encoded again"):
        content_vectors(items, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"damaged", lambda content: content[:-1] + bytes([content[-1] ^ 1])],
)
def test_damaged_vectors_are_computed_again(items, tmp_path, caplog, damage):
    first = content_vectors(items, cache=tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        second = content_vectors(items, cache=tmp_path / "cache")
    assert np.array_equal(first.image, second.image)
    assert "computing it again" in caplog.text


def test_several_images_of_an_item_are_averaged(items, tmp_path, caplog):
    several = items.with_columns(
        more_images=pl.Series(
            [None, None, None, None, [str(tmp_path / "c.png"), str(tmp_path / "a.png")]]
        )
    )
    alone, found = content_vectors(items), content_vectors(several, cache=tmp_path / "cache")
    assert np.array_equal(found.image[:4], alone.image[:4])
    # The first image of the last item cannot be read.
    assert np.allclose(found.image[4], (alone.image[0] + alone.image[2]) / 2, atol=1e-6)
    assert "1 of 4 images cannot be read" in caplog.text
    swapped = several.with_columns(more_images=pl.col("more_images").list.slice(0, 1))
    assert np.allclose(content_vectors(swapped, cache=tmp_path / "cache").image[4], alone.image[2])
