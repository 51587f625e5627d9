"""End-to-end test of a small run of the preset `demo` with the demo model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from test_readme import EXECUTED, ROOT, python_blocks


def test_metrics_cover_all_models_and_negatives(demo_run: Path) -> None:
    metrics = json.loads((demo_run / "metrics.json").read_text())
    assert set(metrics) == {"zero_shot", "mllm_msr", "popularity", "item_knn", "sasrec"}
    for model in ("zero_shot", "mllm_msr"):
        assert {"uniform", "popularity"} <= set(metrics[model])
    assert {"auc", "hr@5", "mrr@5", "ndcg@5"} <= set(metrics["mllm_msr"]["uniform"])


def test_items_are_summarized_from_image_and_title(demo_run: Path) -> None:
    summaries = pl.read_parquet(demo_run / "summaries.parquet")
    assert set(summaries["image_status"]) == {"ok"}
    assert summaries["image_summary"].null_count() == 0
    # Descriptions differ between items, so the model uses the images.
    assert summaries["image_summary"].n_unique() > summaries.height // 4
    assert summaries["text_summary"].n_unique() > summaries.height // 2


def test_preferences_have_the_expected_opening_and_change_between_blocks(demo_run: Path) -> None:
    preferences = pl.read_parquet(demo_run / "preferences.parquet")
    opening = "The user appears to have a preference for"
    assert preferences["preference"].str.starts_with(opening).mean() > 0.9
    assert preferences["preference"].n_unique() > preferences["user_id"].n_unique() // 2


def test_fine_tuning_writes_an_adapter_that_changes_the_scores(demo_run: Path) -> None:
    assert (demo_run / "adapter" / "adapter_model.safetensors").is_file()
    keys = ["fold", "negatives", "user_id", "item_id", "label"]
    fine_tuned = pl.read_parquet(demo_run / "scores/mllm_msr.parquet")
    zero_shot = pl.read_parquet(demo_run / "scores/zero_shot.parquet")
    both = fine_tuned.join(zero_shot, on=keys, suffix="_zero_shot")
    assert both.height == fine_tuned.height == zero_shot.height
    assert both["score"].is_between(0, 1).all()
    assert (both["score"] - both["score_zero_shot"]).abs().max() > 1e-6


def test_the_report_is_self_contained_and_has_case_studies(demo_run: Path) -> None:
    page = (demo_run / "report.html").read_text()
    assert "data:image/jpeg" in page
    assert 'src="http' not in page
    assert page.count("true next item") >= 2
    assert (demo_run / "report.md").read_text().count("|") > 20


@pytest.mark.parametrize("page", EXECUTED)
def test_python_examples_of_the_documentation_run(
    demo_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    page: str,
) -> None:
    shutil.copytree(demo_run, tmp_path / "runs/demo")
    monkeypatch.chdir(tmp_path)
    defined: dict[str, object] = {}
    for block in python_blocks(ROOT / page):
        exec(block, defined)
        assert capsys.readouterr().out or "print" not in block
    if page == "docs/python.md":
        assert (tmp_path / "runs/shop/interactions.parquet").is_file()
