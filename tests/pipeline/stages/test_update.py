"""Stage "update": new interactions are appended, and unusable files are rejected."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from mllm_msr.errors import DataError
from mllm_msr.pipeline.stages.update import append, read_new_interactions
from mllm_msr.tables import INTERACTIONS, ITEMS

KNOWN = pl.DataFrame(
    [("u1", "a", 10, 0), ("u1", "b", 20, 1), ("u2", "a", 5, 0)],
    schema=dict(INTERACTIONS),
    orient="row",
)
CATALOG = pl.DataFrame([(item, item, "", None) for item in "abc"], schema=dict(ITEMS), orient="row")


def new(*rows: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def test_whole_histories_of_changed_users_are_returned_with_positions() -> None:
    histories = append(KNOWN, new(("u3", "c", 1), ("u1", "c", 20)), CATALOG)
    assert histories.select("user_id", "item_id", "position").rows() == [
        ("u1", "a", 0),
        ("u1", "b", 1),
        ("u1", "c", 2),
        ("u3", "c", 0),
    ]


def test_unknown_items_and_late_interactions_are_named() -> None:
    with pytest.raises(DataError, match=r"2 items are not in this run, for example 'x'"):
        append(KNOWN, new(("u1", "y", 30), ("u1", "x", 30)), CATALOG)
    with pytest.raises(DataError, match=r"1 interactions are older .* of user 'u1'"):
        append(KNOWN, new(("u1", "c", 19)), CATALOG)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_are_read_sorted_and_without_duplicates(tmp_path: Path, suffix: str) -> None:
    rows = new(("u1", "b", 9), ("u1", "a", 3), ("u1", "b", 9))
    file = tmp_path / f"new.{suffix}"
    (rows.write_csv if suffix == "csv" else rows.write_parquet)(file)
    assert read_new_interactions(file).equals(new(("u1", "a", 3), ("u1", "b", 9)))


def test_unusable_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.csv cannot be read"):
        read_new_interactions(tmp_path / "absent.csv")
    (tmp_path / "columns.csv").write_text("user,item\nu,a\n")
    with pytest.raises(DataError, match=r"columns\.csv cannot be read: .*user_id"):
        read_new_interactions(tmp_path / "columns.csv")
    (tmp_path / "empty.csv").write_text("user_id,item_id,timestamp\nu,,3\n")
    with pytest.raises(DataError, match="has 1 empty cells"):
        read_new_interactions(tmp_path / "empty.csv")
