"""Update of a finished run: the next export of the source is used as it is."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl
import pytest

import mock_runs
from mllm_msr.config.loading import load_settings
from mllm_msr.config.settings import Settings
from mllm_msr.errors import DataError
from mllm_msr.pipeline.pipeline import Pipeline

START = 1_709_251_200  # 2024-03-01 UTC


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return mock_runs.world(tmp_path / "data")


def shop(folder: Path) -> tuple[Path, list[str]]:
    """Return the folder and settings of a shop whose export has its own columns and dates."""
    mock_runs.world(folder)
    table = pl.read_csv(folder / "interactions.csv")
    moments = pl.from_epoch(START + pl.col("timestamp")).dt.strftime("%d.%m.%Y %H:%M:%S")
    user = pl.format("00{}", pl.col("user_id").str.strip_prefix("user"))
    exported = table.select(kunde=user, sku="item_id", am=moments, sterne=pl.lit("4,5"))
    exported.write_csv(folder / "export.csv", separator=";")
    settings = [
        "data.interactions_file=export.csv",
        "data.user_column=kunde",
        "data.item_column=sku",
        "data.time_column=am",
        "data.time_format=%d.%m.%Y %H:%M:%S",
        "data.rating_column=sterne",
        "data.min_rating=3",
    ]
    (folder / "interactions.csv").unlink()
    pl.read_csv(folder / "items.csv").rename({"item_id": "sku"}).write_csv(folder / "items.csv")
    return folder, settings


def load(data: Path, *more: str) -> Settings:
    return load_settings("default", mock_runs.overrides(data, *more), environment={})


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    found = sorted(folder.glob("*.parquet"))
    return {path.name: pl.read_parquet(path) for path in found}


def prepare(folder: Path, settings: Settings) -> Path:
    with Pipeline.open(folder, settings) as pipeline:
        pipeline.run_until("infer")
    return folder


def test_an_update_changes_its_users_and_leaves_the_evaluated_tables(
    tmp_path: Path, data: Path
) -> None:
    folder = prepare(tmp_path / "run", load(data))
    before = tables(folder)
    news = tmp_path / "news.csv"
    news.write_text("user_id,item_id,timestamp\nuser1,item3,9000000\nnewcomer,item4,9000000\n")
    with Pipeline.open(folder, load(data)) as pipeline:
        counts = pipeline.update(str(news))
        again = pipeline.update(news)
    assert (counts["interactions"], counts["users"], counts["new_users"]) == (2, 2, 1)
    assert (again["interactions"], again["known"]) == (0, 2)
    history = pl.read_parquet(folder / "updates/1/interactions.parquet")
    assert history.filter(pl.col("user_id") == "user1")["item_id"].to_list()[-1] == "item3"
    assert history["timestamp"].max() == 9_000_000_000
    preference_history = pl.read_parquet(folder / "updates/1/preferences.parquet").filter("final")
    assert set(preference_history["user_id"]) == {"user1", "newcomer"}
    assert not (folder / "updates/2").exists()
    after = tables(folder)
    assert all(after[name].equals(before[name]) for name in before)


def test_the_next_export_of_a_shop_is_used_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, more = shop(tmp_path / "shop")
    folder = prepare(tmp_path / "run", load(data, *more))
    known = pl.read_parquet(folder / "interactions.parquet")
    assert "003" in set(known["user_id"])
    old = (data / "export.csv").read_text()
    bought = set(known.filter(pl.col("user_id") == "003")["item_id"])
    fresh, repeated = f"item{min(set(range(16)) - {int(i[4:]) for i in bought})}", min(bought)
    rows = [
        f"003;{fresh};01.04.2024 10:00:00;4,5",
        f"003;{repeated};01.04.2024 11:00:00;4,5",
        f"001;{fresh};01.04.2024 11:00:00;1,5",
        f"77;{fresh};01.04.2024 12:00:00;5",
        "003;item99;01.04.2024 13:00:00;5",
    ]
    news = tmp_path / "april.csv"
    news.write_text(old + "\n".join(rows) + "\n")
    with (
        caplog.at_level(logging.WARNING),
        Pipeline.open(folder, load(data, *more)) as pipeline,
    ):
        counts = pipeline.update(news)
    assert counts["interactions"] == counts["users"] == 2
    assert (counts["new_users"], counts["unknown_items"]) == (1, 1)
    assert counts["known"] == known.height + 1
    assert "1 item that the run does not contain, for example 'item99'" in caplog.text
    history = pl.read_parquet(folder / "updates/1/interactions.parquet")
    assert set(history["user_id"]) == {"003", "77"}
    assert history.filter(pl.col("user_id") == "003").height == len(bought) + 1
    assert history["timestamp"].max() == 1_711_972_800_000


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "parquet"])
def test_an_update_can_have_another_file_type(tmp_path: Path, data: Path, suffix: str) -> None:
    folder = prepare(tmp_path / "run", load(data))
    frame = pl.DataFrame({"user_id": ["user1"], "item_id": ["item3"], "timestamp": [9_000_000]})
    news = tmp_path / f"news.{suffix}"
    if suffix == "tsv":
        frame.write_csv(news, separator="\t")
    else:
        (frame.write_parquet if suffix == "parquet" else frame.write_ndjson)(news)
    with Pipeline.open(folder, load(data)) as pipeline:
        assert pipeline.update(news)["interactions"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "user_id,item_id,timestamp\nuser1,nothing,9000000\n",
            "No item of the file is in this run. Ids of the file are 'nothing', ids of the run 'it",
        ),
        (
            "user_id,item_id,timestamp\nuser1,item3,5\n",
            "but 1 of 1 are, for example of user 'user1' with item 'item3'",
        ),
        ("user_id,item_id,timestamp\nuser1,item3,1709251200000\n", "Convert the times"),
        ("user_id,item_id,timestamp\nuser1,,9000000\n", "no value in the column item_id"),
        ("user,item\n1,2\n", "user_id"),
    ],
)
def test_unusable_updates_are_rejected(tmp_path: Path, data: Path, text: str, message: str) -> None:
    prepare(tmp_path / "run", load(data))
    news = tmp_path / "news.csv"
    news.write_text(text)
    with (
        Pipeline.open(tmp_path / "run", load(data)) as pipeline,
        pytest.raises(DataError, match=message),
    ):
        pipeline.update(news)
    assert not (tmp_path / "run/updates").exists()


def test_a_replaced_interaction_is_forgotten_by_the_preference(tmp_path: Path, data: Path) -> None:
    """With data.duplicates=last, an update equals a run on all the data."""
    settings = load(data, "data.duplicates=last", "infer.block_size=2")
    folder = prepare(tmp_path / "run", settings)
    history = pl.read_parquet(folder / "interactions.parquet").filter(pl.col("user_id") == "user1")
    first = history["item_id"][1]
    fresh = min({f"item{i}" for i in range(16)} - set(history["item_id"]))
    row = f"user1,{first},9000000\n"
    news = tmp_path / "news.csv"
    news.write_text("user_id,item_id,timestamp\n" + row)
    with Pipeline.open(folder, settings) as pipeline:
        assert pipeline.update(news)["interactions"] == 1
    updated = pl.read_parquet(folder / "updates/1/interactions.parquet")
    with (data / "interactions.csv").open("a") as file:
        # The last item of a history is hidden from preferences; append another one.
        file.write(f"{row}user1,{fresh},9000001\n")
    whole = prepare(tmp_path / "whole", settings)
    expected = pl.read_parquet(whole / "interactions.parquet").filter(pl.col("user_id") == "user1")
    assert updated["item_id"].to_list() == expected["item_id"].to_list()[:-1]
    changed, complete = (
        pl.read_parquet(path).filter(pl.col("user_id") == "user1")
        for path in (folder / "updates/1/preferences.parquet", whole / "preferences.parquet")
    )
    assert changed.equals(complete)


def test_runs_without_preferences_get_new_interactions_only(tmp_path: Path, data: Path) -> None:
    settings = load(
        data, "recommend.reads=history", "infer.enabled=false", "summarize.enabled=false"
    )
    folder = prepare(tmp_path / "run", settings)
    table = pl.read_csv(data / "interactions.csv")
    user = table["user_id"][0]
    known = set(table.filter(pl.col("user_id") == user)["item_id"])
    item = next(one for one in sorted(set(table["item_id"])) if one not in known)
    new = pl.DataFrame([(user, item, 10**6)], schema=table.schema, orient="row")
    file = tmp_path / "new.csv"
    pl.concat([table, new]).write_csv(file)
    with Pipeline.open(folder, settings) as pipeline:
        counts = pipeline.update(file)
        assert counts["interactions"] == 1
        assert pipeline.tables.current("interactions").height == table.height + 1
        assert not (folder / "updates" / "1" / "preferences.parquet").exists()
