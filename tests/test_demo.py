"""The whole chain for real and in small: the packaged model sees, writes, learns and scores."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.pipeline.pipeline import Pipeline

SMALL = [
    "data.n_users=24",
    "data.n_items=40",
    "data.n_negatives=5",
    "train.method=lora",
    "train.rank=4",
    "train.max_steps=4",
    "train.batch_size=8",
    "train.validate_every=2",
    "report.case_studies=2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of the preset `demo`."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    covers = folder.parent / "covers"
    settings = load_settings("demo", [*SMALL, f"data.path={covers}"], environment={})
    with Pipeline.open(folder, settings) as pipeline:
        pipeline.run_all()
    return folder


def test_metrics_name_the_models_and_the_candidates(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"zero_shot", "mllm_msr", "popularity"}
    for model in ("zero_shot", "mllm_msr"):
        assert {"uniform", "popularity"} <= set(metrics[model])
    assert {"auc", "hr@5", "mrr@5", "ndcg@5"} <= set(metrics["mllm_msr"]["uniform"])


def test_every_item_is_described_from_its_image_and_its_title(folder: Path) -> None:
    summaries = pl.read_parquet(folder / "summaries.parquet")
    assert set(summaries["image_status"]) == {"ok"}
    assert summaries["image_summary"].null_count() == 0
    # Sentences differ from item to item: the model looks at what it is shown.
    assert summaries["image_summary"].n_unique() > summaries.height // 4
    assert summaries["text_summary"].n_unique() > summaries.height // 2


def test_preferences_are_sentences_that_grow_block_by_block(folder: Path) -> None:
    preferences = pl.read_parquet(folder / "preferences.parquet")
    opening = "The user appears to have a preference for"
    assert preferences["preference"].str.starts_with(opening).mean() > 0.9
    assert preferences["preference"].n_unique() > preferences["user_id"].n_unique() // 2


def test_fine_tuning_leaves_an_adapter_that_changes_the_scores(folder: Path) -> None:
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    keys = ["fold", "negatives", "user_id", "item_id", "label"]
    tuned = pl.read_parquet(folder / "scores/mllm_msr.parquet")
    untuned = pl.read_parquet(folder / "scores/zero_shot.parquet")
    both = tuned.join(untuned, on=keys, suffix="_untuned")
    assert both.height == tuned.height == untuned.height
    assert both["score"].is_between(0, 1).all()
    assert (both["score"] - both["score_untuned"]).abs().max() > 1e-6


def test_the_report_is_one_file_with_case_studies(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "data:image/jpeg" in page
    assert 'src="http' not in page
    assert page.count("true next item") >= 2
    assert (folder / "report.md").read_text().count("|") > 20
