"""End-to-end test of a small run of the preset `demo` with the demo model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from mllm_msr.config.loading import load_settings
from mllm_msr.pipeline.pipeline import Pipeline
from test_readme import ROOT, python_blocks

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
    """Return the folder of a small run of the preset `demo`."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    covers = folder.parent / "covers"
    settings = load_settings("demo", [*SMALL, f"data.path={covers}"], environment={})
    with Pipeline.open(folder, settings) as pipeline:
        pipeline.run_all()
    return folder


def test_metrics_cover_all_models_and_negatives(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"zero_shot", "mllm_msr", "popularity", "item_knn", "sasrec"}
    for model in ("zero_shot", "mllm_msr"):
        assert {"uniform", "popularity"} <= set(metrics[model])
    assert {"auc", "hr@5", "mrr@5", "ndcg@5"} <= set(metrics["mllm_msr"]["uniform"])


def test_items_are_summarized_from_image_and_title(folder: Path) -> None:
    summaries = pl.read_parquet(folder / "summaries.parquet")
    assert set(summaries["image_status"]) == {"ok"}
    assert summaries["image_summary"].null_count() == 0
    # Descriptions differ between items, so the model uses the images.
    assert summaries["image_summary"].n_unique() > summaries.height // 4
    assert summaries["text_summary"].n_unique() > summaries.height // 2


def test_preferences_have_the_expected_opening_and_change_between_blocks(folder: Path) -> None:
    preferences = pl.read_parquet(folder / "preferences.parquet")
    opening = "The user appears to have a preference for"
    assert preferences["preference"].str.starts_with(opening).mean() > 0.9
    assert preferences["preference"].n_unique() > preferences["user_id"].n_unique() // 2


def test_fine_tuning_writes_an_adapter_that_changes_the_scores(folder: Path) -> None:
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    keys = ["fold", "negatives", "user_id", "item_id", "label"]
    fine_tuned = pl.read_parquet(folder / "scores/mllm_msr.parquet")
    zero_shot = pl.read_parquet(folder / "scores/zero_shot.parquet")
    both = fine_tuned.join(zero_shot, on=keys, suffix="_zero_shot")
    assert both.height == fine_tuned.height == zero_shot.height
    assert both["score"].is_between(0, 1).all()
    assert (both["score"] - both["score_zero_shot"]).abs().max() > 1e-6


def test_the_report_is_self_contained_and_has_case_studies(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "data:image/jpeg" in page
    assert 'src="http' not in page
    assert page.count("true next item") >= 2
    assert (folder / "report.md").read_text().count("|") > 20


@pytest.mark.parametrize("page", ["python.md", "quickstart.md"])
def test_python_examples_of_the_documentation_run(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    page: str,
) -> None:
    shutil.copytree(folder, tmp_path / "runs/demo")
    monkeypatch.chdir(tmp_path)
    defined: dict[str, object] = {}
    for block in python_blocks(ROOT / "docs" / page):
        exec(block, defined)
        assert capsys.readouterr().out or "print" not in block
    if page == "python.md":
        assert (tmp_path / "runs/shop/interactions.parquet").is_file()
