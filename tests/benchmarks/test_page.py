"""The page of speed is what its results say."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_of_the_results_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks._page import page

    shown = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert shown == page(ROOT / "benchmarks" / "results")
    for name in ("scoring", "preferences", "summaries", "training"):
        assert (ROOT / "benchmarks" / "results" / f"{name}.json").is_file()


def test_results_of_other_models_have_files_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.__main__ import _stem

    usual = {"shapes": "embedded", "device": "cpu", "dtype": "float32"}
    assert _stem("scoring", usual) == _stem("scoring", {}) == "scoring"
    other = {"shapes": "7b", "device": "cuda", "dtype": "bfloat16"}
    assert _stem("scoring", other) == "scoring-7b-cuda-bfloat16"
