"""The page `docs/speed.md`, generated from the stored results."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.__main__ import RESULTS, result_name
from benchmarks._page import page

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "speed.md").read_text(encoding="utf-8") == page(RESULTS)
    for name in ("scoring", "preferences", "summaries", "training"):
        assert (RESULTS / f"{name}.json").is_file()


def test_the_page_has_a_row_for_vllm_if_it_was_measured(tmp_path: Path) -> None:
    (tmp_path / "speed_notes.md").write_text("Notes.")
    (tmp_path / "results").mkdir()
    result = json.loads((RESULTS / "scoring.json").read_text(encoding="utf-8"))
    for parts in ("ratios", "per_second", "tokens_per_second"):
        result[parts].pop("vllm", None)
    for part in ("vllm_seconds", "largest_difference_to_vllm"):
        result.pop(part, None)
    stored = tmp_path / "results" / "scoring.json"
    stored.write_text(json.dumps(result))
    without = page(tmp_path / "results")
    assert "| vllm |" not in without
    assert "per repeat" not in without
    result["ratios"]["vllm"] = 2.5
    result["per_second"]["vllm"] = 40.0
    result["tokens_per_second"]["vllm"] = 5000.0
    result["vllm_seconds"] = {"processor": [4.0, 6.0, 5.0], "elapsed": [3.0, 2.0, 7.0]}
    result["largest_difference_to_vllm"] = 2e-05
    stored.write_text(json.dumps(result))
    shown = page(tmp_path / "results")
    assert "| vllm | 40 | 5000 | 2.5x |  |" in shown
    assert "Seconds of vLLM per repeat: 5 processor, 3 elapsed." in shown
    assert "2e-05 for vllm." in shown


def test_targets_belong_to_a_model_and_a_device(tmp_path: Path) -> None:
    (tmp_path / "speed_notes.md").write_text("Notes.")
    (tmp_path / "results").mkdir()
    result = json.loads((RESULTS / "scoring.json").read_text(encoding="utf-8"))
    result["ratios"] = {"released": 8.0, "strong": 6.0}
    stored = tmp_path / "results" / "scoring-smolvlm2-256m.json"
    for device, target in (("cpu", "5x"), ("cuda", "")):
        stored.write_text(json.dumps(result | {"shapes": "smolvlm2-256m", "device": device}))
        lines = page(tmp_path / "results").splitlines()
        (strong,) = (line for line in lines if line.startswith("| strong |"))
        (released,) = (line for line in lines if line.startswith("| released |"))
        assert strong.endswith(f"| 6x | {target} |")
        assert released.endswith("| 8x |  |")


def test_lists_of_one_user_are_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "speed_notes.md").write_text("Notes.")
    (tmp_path / "results").mkdir()
    result = json.loads((RESULTS / "scoring.json").read_text(encoding="utf-8"))
    rates = {"whole prompts": 10.0, "item-first": 20.0, "ours": 70.0}
    result |= {
        "shapes": "smolvlm2-256m",
        "candidates": 100,
        "ratios": {"whole prompts": 7.0, "item-first": 3.5},
        "per_second": rates,
        "tokens_per_second": rates,
        "computed_tokens": {"whole prompts": 13400, "ours": 8100},
        "largest_difference": 3e-05,
    }
    for part in ("vllm_seconds", "largest_difference_to_vllm"):
        result.pop(part, None)
    stored = tmp_path / "results" / "candidate_lists-smolvlm2-256m.json"
    stored.write_text(json.dumps(result))
    shown = page(tmp_path / "results")
    assert "## Scoring the list of one user: smolvlm2-256m, float32, cpu" in shown
    assert "| whole prompts | 10 | 10 | 7x | 5x |" in shown
    assert "Largest difference of log-probabilities from ours: 3e-05 for whole prompts." in shown
    assert "Tokens computed for 100 candidates: 13,400 for whole prompts, 8,100 for ours." in shown


def test_results_of_other_models_have_other_file_names() -> None:
    defaults = {"shapes": "demo", "device": "cpu", "dtype": "float32"}
    assert result_name("scoring", defaults) == result_name("scoring", {}) == "scoring"
    other = {"shapes": "7b", "device": "cuda", "dtype": "bfloat16"}
    assert result_name("scoring", other) == "scoring-7b-cuda-bfloat16"
