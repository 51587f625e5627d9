"""Text of the report about a dataset's files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl

from mllm_msr.data.data_report import DataReport, HistoryPreview
from mllm_msr.data.preprocessing import prepare_interactions
from mllm_msr.data.source_report import describe_source, with_filtering
from mllm_msr.data.source_text import format_report, report_rows
from mllm_msr.interfaces import RawData
from mllm_msr.tables import ITEMS
from mllm_msr.types import SourceFile, SourceImages

FILE = SourceFile(
    Path("shop/orders.csv"),
    "interactions",
    "CSV",
    encoding="UTF-16",
    separator=";",
    decimal_comma=True,
    n_rows=3,
    columns={"user_id": "customer", "item_id": "item_id"},
    ignored=("color",),
    time_unit="%d/%m/%Y",
    dropped={"no timestamp": 1},
)


def report(*, ordered_by: str = "time", last: int = 86_400_000) -> DataReport:
    interactions = pl.LazyFrame(
        {"user_id": ["u1", "u1"], "item_id": ["v1", "v2"], "timestamp": [0, last]}
    )
    items = pl.DataFrame([("v1", "Tea", "", None)], schema=dict(ITEMS), orient="row")
    images = SourceImages(Path("shop/images"), 3, 1, ("x.png",))
    raw = RawData(interactions, items, "item", ordered_by, sources=(FILE,), images=images)
    table, counts = prepare_interactions(
        interactions, min_user_interactions=1, min_item_interactions=1
    )
    return with_filtering(describe_source(raw), table, counts, items)


def test_rows_name_what_was_read() -> None:
    rows = dict(report_rows(report().to_dict()))
    assert rows["interactions file"] == (
        "shop/orders.csv (CSV, UTF-16, separator semicolon, decimal comma, 3 rows, time: %d/%m/%Y)"
    )
    assert rows["interactions columns"] == "customer as user_id, item_id; not used: color"
    assert rows["interactions rows not used"] == "1 (no timestamp)"
    assert rows["time span"] == "1970-01-01 00:00 UTC to 1970-01-02 00:00 UTC"
    assert rows["ids"] == "user 'u1', item 'v1', item in the table of items 'v1'"
    assert rows["known items"].startswith("1 of 2 (50.0%) of the items; 1 of 2 (50.0%)")
    assert "3 files in shop/images, 1 belong to an item; without an item: x.png" in rows["images"]
    assert rows["filters"] == ("0 interactions dropped; 2 of 1 users with 2 items remain")
    assert rows["user u1"] == "2 items: Tea > (v2)"


def test_times_outside_the_calendar_and_ranks_are_shown_as_numbers() -> None:
    rows = dict(report_rows(report(last=1_700_001_105_000_000).to_dict()))
    assert rows["time span"].endswith("to 1700001105000000 ms after 1970")
    rows = dict(report_rows(report(ordered_by="rank", last=7).to_dict()))
    assert rows["time span"] == "order only, from 0 to 7"


def test_the_text_ends_with_warnings_and_problems() -> None:
    found = dataclasses.replace(report(), warnings=("Few titles.",), problems=("No ids.",))
    lines = format_report(found.to_dict()).splitlines()
    assert lines[-2:] == ["warning: Few titles.", "problem: No ids."]


def test_control_characters_are_not_printed() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    found = dataclasses.replace(report(), warnings=(f"An id \x1b[2J\u202e of {family}.",))
    text = format_report(found.to_dict())
    assert "An id \ufffd[2J\ufffd of" in text
    assert family in text


def test_lines_fit_a_terminal_and_long_values_are_shortened() -> None:
    found = report()
    ignored = tuple(f"column_{n}" for n in range(40))
    histories = (HistoryPreview("u" * 500, 1, (("v1", "word " * 20_000),)),)
    found = dataclasses.replace(
        found,
        files=(dataclasses.replace(FILE, ignored=ignored),),
        histories=histories,
        warnings=("A long warning " * 20,),
    )
    lines = format_report(found.to_dict()).splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    assert "not used: column_0, column_1, " in text
    assert "column_11 and 28 more" in text
    assert f"user {'u' * 37}... 1 items: word word" in text
    assert text.count("word") < 10
    assert text.count("A long warning") == 20


def test_it_says_if_the_model_does_not_read_images() -> None:
    values = report().to_dict()
    assert "the model does not read images" not in dict(report_rows(values))["images"]
    rows = dict(report_rows({**values, "reads_images": False}))
    assert rows["images"].endswith("; the model does not read images")
    del values["reads_images"]  # as of earlier versions
    assert "does not read" not in dict(report_rows(values))["images"]
