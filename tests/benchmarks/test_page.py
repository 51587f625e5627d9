"""The page of speed is what its results say."""

from __future__ import annotations

import json
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


def test_vllm_has_a_row_where_it_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks._page import page

    (tmp_path / "speed_notes.md").write_text("Notes.")
    (tmp_path / "results").mkdir()
    kept = ROOT / "benchmarks" / "results" / "scoring.json"
    result = json.loads(kept.read_text(encoding="utf-8"))
    for parts in ("ratios", "per_second", "tokens_per_second"):
        result[parts].pop("vllm", None)
    for part in ("vllm_seconds", "largest_difference_to_vllm"):
        result.pop(part, None)
    written = tmp_path / "results" / "scoring.json"
    written.write_text(json.dumps(result))
    without = page(tmp_path / "results")
    assert "| vllm |" not in without
    assert "seconds of a repeat" not in without
    result["ratios"]["vllm"] = 2.5
    result["per_second"]["vllm"] = 40.0
    result["tokens_per_second"]["vllm"] = 5000.0
    result["vllm_seconds"] = {"processor": [4.0, 6.0, 5.0], "elapsed": [3.0, 2.0, 7.0]}
    result["largest_difference_to_vllm"] = 2e-05
    written.write_text(json.dumps(result))
    shown = page(tmp_path / "results")
    assert "| vllm | 40 | 5000 | 2.5x | 1x |" in shown
    assert "vLLM's seconds of a repeat: 5 processor, 3 elapsed." in shown
    assert "to vllm 2e-05." in shown


def test_results_of_other_models_have_files_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.__main__ import _stem

    usual = {"shapes": "demo", "device": "cpu", "dtype": "float32"}
    assert _stem("scoring", usual) == _stem("scoring", {}) == "scoring"
    other = {"shapes": "7b", "device": "cuda", "dtype": "bfloat16"}
    assert _stem("scoring", other) == "scoring-7b-cuda-bfloat16"
