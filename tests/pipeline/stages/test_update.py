"""Stage "update": rules for known, repeated, unknown and late interactions."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.datasets.demo import Demo
from mllm_msr.datasets.files import Files
from mllm_msr.datasets.movielens import MovieLens
from mllm_msr.errors import DataError
from mllm_msr.pipeline.stages.update import (
    Update,
    describe,
    plan_update,
    read_new_interactions,
    reusable_preferences,
)
from mllm_msr.tables import INTERACTIONS, ITEMS, PREFERENCES

Row = tuple[str, str, int | None]

KNOWN = pl.DataFrame(
    [("u1", "a", 10, 0), ("u1", "b", 20, 1), ("u2", "a", 5, 0)],
    schema=dict(INTERACTIONS),
    orient="row",
)
CATALOG = pl.DataFrame([(item, item, "", None) for item in "abc"], schema=dict(ITEMS), orient="row")
SCHEMA = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}


def new(*rows: Row) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def plan(*rows: Row, duplicates: str = "first", is_sample: bool = False) -> Update:
    return plan_update(KNOWN, new(*rows), CATALOG, duplicates=duplicates, is_sample=is_sample)  # type: ignore[arg-type]


def histories(update: Update) -> list[tuple[str, str, int]]:
    return update.histories.select("user_id", "item_id", "position").rows()


def test_whole_histories_of_changed_users_are_returned_with_positions() -> None:
    update = plan(("u3", "c", 1), ("u1", "c", 20))
    assert histories(update) == [("u1", "a", 0), ("u1", "b", 1), ("u1", "c", 2), ("u3", "c", 0)]
    assert dict(update.histories.schema) == dict(INTERACTIONS)
    assert sorted(update.n_unchanged.rows()) == [("u1", 2), ("u3", 0)]
    assert update.counts == {
        "interactions": 2, "users": 2, "new_users": 1, "known": 0, "unknown_items": 0,
        "outside_sample": 0,
    }  # fmt: skip


@pytest.mark.parametrize("duplicates", ["first", "last", "keep"])
def test_a_complete_export_only_adds_what_is_new(duplicates: str) -> None:
    rows = [("u1", "a", 10), ("u1", "b", 20), ("u1", "c", 30), ("u2", "a", 5)]
    update = plan(*rows, duplicates=duplicates)
    assert histories(update) == [("u1", "a", 0), ("u1", "b", 1), ("u1", "c", 2)]
    assert (update.counts["interactions"], update.counts["known"]) == (1, 3)
    assert plan(*rows[:2], duplicates=duplicates).histories.is_empty()


def test_with_first_an_item_of_the_history_is_not_added_again() -> None:
    update = plan(("u1", "a", 30), ("u2", "b", 30), ("u2", "b", 40))
    assert histories(update) == [("u2", "a", 0), ("u2", "b", 1)]
    assert update.histories["timestamp"].to_list() == [5, 30]
    assert update.counts["known"] == 2


def test_with_last_a_repeated_interaction_replaces_the_earlier_one() -> None:
    update = plan(
        ("u1", "a", 30), ("u1", "b", 15), ("u2", "c", 9), ("u2", "c", 7), duplicates="last"
    )
    assert histories(update) == [("u1", "b", 0), ("u1", "a", 1), ("u2", "a", 0), ("u2", "c", 1)]
    assert sorted(update.n_unchanged.rows()) == [("u1", 0), ("u2", 1)]


def test_with_keep_every_repetition_counts_once() -> None:
    rows = [("u1", "b", 20), ("u1", "b", 20), ("u1", "a", 30)]
    update = plan(*rows, duplicates="keep")
    assert [row[1] for row in histories(update)] == ["a", "b", "b", "a"]
    again = plan_update(update.histories, new(*rows), CATALOG, duplicates="keep")
    assert again.histories.is_empty()


def test_rows_without_times_follow_the_history_in_their_order() -> None:
    update = plan(("u1", "c", None), ("u1", "a", None), ("u2", "c", None), ("u2", "b", None))
    assert histories(update) == [
        ("u1", "a", 0), ("u1", "b", 1), ("u1", "c", 2),
        ("u2", "a", 0), ("u2", "c", 1), ("u2", "b", 2),
    ]  # fmt: skip
    assert update.histories["timestamp"].min() == 5
    assert (update.histories.filter(pl.col("item_id") == "c")["timestamp"] > 20).all()


def test_unknown_items_are_counted_unless_all_are_unknown() -> None:
    update = plan(("u1", "y", 30), ("u1", "x", 30), ("u1", "x", 31), ("u1", "c", 40))
    assert update.unknown_items == ("x", "y")
    assert update.counts["unknown_items"] == 3
    assert [row[1] for row in histories(update)] == ["a", "b", "c"]
    with pytest.raises(DataError, match=r"file are 'x' and 'y', .* run 'a' and 'b'\."):
        plan(("u1", "y", 30), ("u1", "x", 30))


def test_late_interactions_are_named() -> None:
    with pytest.raises(DataError, match=r"but 1 of 1 are, .* user 'u1' with item 'c'"):
        plan(("u1", "c", 19))


def test_users_outside_the_sample_are_not_added() -> None:
    update = plan(("u9", "c", 30), ("u1", "c", 30), is_sample=True)
    assert histories(update) == [("u1", "a", 0), ("u1", "b", 1), ("u1", "c", 2)]
    assert (update.counts["outside_sample"], update.counts["new_users"]) == (1, 0)


def test_preferences_of_changed_interactions_are_not_reused() -> None:
    preferences = pl.DataFrame(
        [("u1", 0, 3, "p", False, ""), ("u1", 1, 6, "q", True, ""), ("u2", 0, 2, "r", True, "")],
        schema=dict(PREFERENCES),
        orient="row",
    )
    unchanged = pl.DataFrame({"user_id": ["u1"], "n_unchanged": [5]})
    kept = reusable_preferences(preferences, unchanged)
    assert kept["preference"].to_list() == ["p", "r"]
    assert kept.columns == preferences.columns


def test_counts_are_described_in_sentences() -> None:
    counts = {
        "interactions": 1200, "users": 3, "new_users": 1, "known": 1, "unknown_items": 2,
        "outside_sample": 5,
    }  # fmt: skip
    assert describe(counts) == (
        "Added 1,200 interactions of 3 users (1 of them new) and updated their preferences.\n"
        "Ignored 1 interaction that the run already contains.\n"
        "Ignored 2 interactions with items that the run does not contain. A new run can include "
        "them.\n"
        "Ignored 5 interactions of users that are not in the run's sample of users "
        "(data.max_users)."
    )
    nothing = describe(dict.fromkeys(counts, 0))
    assert nothing == "The file has no new interactions; nothing was changed."


def test_files_are_read_with_the_settings_of_the_run(tmp_path: Path) -> None:
    file = tmp_path / "march.tsv"
    file.write_text(
        "stars\tkunde\tsku\tam\n5\t003\t07\t02.03.2024\n4\t003\t08\t01.03.2024\n2\tx\ty\t01.03.2024\n"
    )
    dataset = Files(
        path=tmp_path / "absent",
        user_column="kunde",
        item_column="sku",
        time_column="am",
        time_format="%d.%m.%Y",
        rating_column="stars",
        min_rating=3,
    )
    assert read_new_interactions(dataset, file).rows() == [
        ("003", "08", 1709251200000),
        ("003", "07", 1709337600000),
    ]


def test_rows_without_a_time_column_have_no_times(tmp_path: Path) -> None:
    file = tmp_path / "new.csv"
    file.write_text("user_id,item_id\nu2,b\nu1,a\n")
    found = read_new_interactions(Files(path=tmp_path, time_column=None), file)
    assert found.rows() == [("u2", "b", None), ("u1", "a", None)]


def test_other_datasets_read_their_own_form(tmp_path: Path) -> None:
    ratings = tmp_path / "new.csv"
    ratings.write_text("userId,movieId,rating,timestamp\n1,7,4.5,1709294400\n")
    assert read_new_interactions(MovieLens(path=tmp_path), ratings).rows() == [
        ("1", "7", 1709294400000)
    ]
    default = tmp_path / "default.csv"
    default.write_text("user_id,item_id,timestamp\nu0003,v0004,1709294400000\n")
    demo = Demo(covers=tmp_path)
    assert read_new_interactions(demo, default).rows() == [("u0003", "v0004", 1709294400000)]
    default.write_text("user_id,item_id,timestamp\nu0003,v0004,1709294400\n")
    with pytest.raises(DataError, match="lie in 1970"):
        read_new_interactions(demo, default)


def test_unusable_files_are_rejected(tmp_path: Path) -> None:
    dataset = Files(path=tmp_path)
    with pytest.raises(DataError, match=r"absent\.csv"):
        read_new_interactions(dataset, tmp_path / "absent.csv")
    (tmp_path / "columns.csv").write_text("user,item\nu,a\n")
    with pytest.raises(DataError, match=r"columns\.csv has no columns user_id"):
        read_new_interactions(dataset, tmp_path / "columns.csv")
    (tmp_path / "empty.csv").write_text("user_id,item_id,timestamp\nu,,3\n")
    with pytest.raises(DataError, match=r"empty\.csv has no value in the column item_id"):
        read_new_interactions(dataset, tmp_path / "empty.csv")
