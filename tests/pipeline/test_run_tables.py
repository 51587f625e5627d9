"""Tables of a run: no hidden target in training data, and only the content that settings allow."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import mock_runs
from mllm_msr.config.settings import PromptsSettings, Settings
from mllm_msr.errors import RunFolderError, UsageError
from mllm_msr.pipeline.pipeline import Pipeline
from mllm_msr.pipeline.run_tables import RunTables, without_last
from mllm_msr.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with summaries."""
    root = tmp_path_factory.mktemp("tables")
    data = mock_runs.world(root / "data")
    with Pipeline.open(root / "run", mock_runs.load(data)) as pipeline:
        pipeline.run_until("summarize")
    return root / "run"


@pytest.fixture
def tables(folder: Path) -> RunTables:
    return RunTables(RunFolder.open(folder, read_only=True))


def test_a_fold_that_the_run_does_not_have_is_an_error(tables: RunTables) -> None:
    assert tables.folds() == [0, 1]
    assert (tables.fold(None), tables.fold(1)) == (0, 1)
    with pytest.raises(UsageError, match=r"The run has no fold 9\. Use one of 0, 1\."):
        tables.fold(9)


def test_training_data_hides_the_targets_of_test_users(tables: RunTables, folder: Path) -> None:
    data = tables.training_data(0)
    assert set(data.candidates["split"]) == {"train", "validation"}
    targets = pl.read_parquet(folder / "candidates.parquet").filter(fold=0, label=1)
    targets = targets.filter(pl.col("split") != "train")
    assert targets.height > 0
    assert data.interactions.join(targets, on=["user_id", "position"], how="semi").is_empty()
    n_hidden = targets["user_id"].n_unique()
    assert data.interactions.height == tables.interactions().height - n_hidden


def test_the_setting_content_limits_what_baselines_read(tables: RunTables, folder: Path) -> None:
    full = tables.training_data(0).items
    assert full["image"].null_count() == full.height // 2
    text = tables.training_data(0, content="text").items
    assert text.drop("image").equals(full.drop("image"))
    assert text["image"].null_count() == text.height
    image = tables.training_data(0, content="image").items
    assert image["image"].equals(full["image"])
    assert set(image["title"]) | set(image["text"]) == {""}
    described = tables.training_data(0, content="image_summary").items
    assert described["item_id"].equals(full["item_id"])
    assert set(described["title"]) == {""}
    assert described["image"].null_count() == described.height
    summaries = dict(
        pl.read_parquet(folder / "summaries.parquet")["item_id", "image_summary"].iter_rows()
    )
    assert described["text"].to_list() == [
        summaries[item_id] or "" for item_id in described["item_id"]
    ]
    assert "A plain square." in described["text"].to_list()


def test_image_paths_are_absolute(tables: RunTables) -> None:
    images = tables.items()["image"].drop_nulls()
    assert all(Path(image).is_file() for image in images)


def test_histories_lack_each_users_last_interaction(tables: RunTables) -> None:
    interactions = tables.interactions()
    histories = tables.histories()
    assert histories.equals(without_last(interactions))
    n_users = interactions["user_id"].n_unique()
    assert histories.height == interactions.height - n_users


def test_templates_and_language_are_those_of_the_settings(
    tables: RunTables, tmp_path: Path
) -> None:
    (tmp_path / "fusion.jinja").write_text("{{ words }} {{ text_summary }} {{ image_summary }}")
    prompts = PromptsSettings(folder=tmp_path, language="German")
    words = tables.item_type(Settings(prompts=prompts))
    assert (words.language, [name for name, _ in words.templates]) == ("German", ["fusion"])
    assert tables.item_type(Settings()).language == "English"
    examples = tables.item_type(Settings(prompts=PromptsSettings(style="few_shot")))
    assert (examples.style, tables.item_type(Settings()).style) == ("few_shot", "plain")


def test_the_item_type_is_the_setting_or_the_data_sets_own(tables: RunTables) -> None:
    assert tables.item_type(Settings(item_type="book")).plural == "books"
    assert tables.item_type(Settings()).singular == "item"


def test_scored_models_need_the_stage_score(tables: RunTables) -> None:
    with pytest.raises(RunFolderError, match=r"No model has scores .* Run the stage 'score' first"):
        tables.scored_models()
