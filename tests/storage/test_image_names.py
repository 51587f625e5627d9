"""Names of stored images."""

from __future__ import annotations

import hashlib

import pytest

from mllm_msr.storage.image_names import hash_in_name, image_name


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_name_contains_the_hash(image_format: str) -> None:
    name = image_name(b"content", image_format)
    assert hash_in_name(name) == hashlib.sha256(b"content").hexdigest()


@pytest.mark.parametrize(
    "name", ["a.jpg", f"{'0' * 64}.jpg", f"sha256-{'0' * 63}.jpg", f"sha256-{'0' * 64}.jpg.tmp"]
)
def test_other_names_have_no_hash(name: str) -> None:
    assert hash_in_name(name) is None
