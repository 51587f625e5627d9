"""JSON Lines: late fields, exact ids, nested values and malformed lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllm_msr.data.reading.json_lines import as_text, open_json_lines
from mllm_msr.data.reading.records import Column, RawTable, ReadOptions
from mllm_msr.data.reading.rows import BadRows
from mllm_msr.errors import DataError

COLUMNS = (Column("id", "id"), Column("text", "text"))


def opened(tmp_path: Path, text: str, *, drop: bool = False) -> tuple[RawTable, BadRows]:
    path = tmp_path / "t.jsonl"
    path.write_text(text, encoding="utf-8")
    bad_rows = BadRows("t.jsonl", "drop" if drop else "error")
    return open_json_lines(path, COLUMNS, ReadOptions(), bad_rows, content="rows"), bad_rows


def rows(raw: RawTable) -> list[tuple[str | None, ...]]:
    return raw.frame.select("id", "text").collect().rows()


def repaired(raw: RawTable) -> RawTable:
    assert raw.repair is not None
    return raw.repair()


def is_plain(raw: RawTable) -> bool:
    assert raw.invalid is not None
    return not raw.frame.select(raw.invalid.any()).collect().item()


SIMPLE = '{"id":"003","text":"x","n":1}\n{"id":5}\n\n{"text":"é","id":101.0}\n{"id":null}\n'


def test_values_are_texts() -> None:
    assert [as_text(value) for value in ("a", 5, 1.0, 0.5, True, None, float("nan"))] == [
        "a", "5", "1", "0.5", "true", None, None,
    ]  # fmt: skip
    assert as_text("\ud800") == "?"


def test_both_readers_give_the_same_rows(tmp_path: Path) -> None:
    raw, _ = opened(tmp_path, SIMPLE)
    expected = [("003", "x"), ("5", None), ("101", "é"), (None, None)]
    assert rows(raw) == rows(repaired(raw)) == expected
    assert is_plain(raw)
    assert raw.columns == ("id", "text", "n")
    assert raw.description.format == "JSON Lines"


def test_large_integers_are_exact(tmp_path: Path) -> None:
    ids = [9007199254740993, 12345678901234567890, 10**40 + 1]
    raw, _ = opened(tmp_path, "".join(f'{{"id":{number}}}\n' for number in ids[:2]))
    assert [row[0] for row in rows(raw)] == [str(number) for number in ids[:2]]
    raw, _ = opened(tmp_path, "".join(f'{{"id":{number}}}\n' for number in ids))
    assert [row[0] for row in rows(repaired(raw))] == [str(number) for number in ids]


def test_fields_may_appear_after_the_sampled_lines(tmp_path: Path) -> None:
    raw, _ = opened(tmp_path, '{"id":"a"}\n' * 10_010 + '{"id":"b","text":"late"}\n')
    assert raw.columns == ("id",)
    assert rows(raw)[-1] == ("b", "late")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"id":"b","text":{"en":"x"}}',
            r"value of text in line 2 of t\.jsonl is an object: {'en'",
        ),
        ('{"id":"b","text":["x","y"]}', r"value of text in line 2 .* is a list: \['x', 'y'\]"),
        ('{"id":[1]}', r"value of id in line 2 .* is a list"),
        ('{"id":true}', r"value of id in line 2 .* is a boolean: True"),
        ('{"id":101.5}', r"is a number with decimals: 101\.5\. Write it as a text"),
        ('{"id":1e400}', r"is a number with decimals: inf"),
        ('{"id":0.123e17,"text":"x"}', r"is a number without all of its digits"),
        ('{"id":"b"', r"Line 2 of t\.jsonl is not a JSON object: '{\"id\":\"b\"'"),
        ("3", "Line 2 of t.jsonl is not a JSON object"),
        ("[" * 100_000, "Line 2 of t.jsonl is not a JSON object"),
        ('{"id":' + "9" * 5000 + "}x", "Line 2 of t.jsonl is not a JSON object"),
    ],
)
def test_bad_lines_are_named_or_dropped(tmp_path: Path, line: str, message: str) -> None:
    text = f'{{"id":"a"}}\n{line}\n{{"id":"c","text":"[x]"}}\n'
    raw, bad_rows = opened(tmp_path, text)
    n_usable = len(rows(repaired(raw)))
    with pytest.raises(DataError, match=message):
        bad_rows.finish(n_usable)
    raw, bad_rows = opened(tmp_path, text, drop=True)
    assert rows(repaired(raw)) == [("a", None), ("c", "[x]")]
    assert sum(bad_rows.counts.values()) == 1


@pytest.mark.parametrize("value", ['{"en": "x"}', "[x]", "true", "1.5", "1e5", "NaN"])
def test_texts_that_look_like_other_values_stay_texts(tmp_path: Path, value: str) -> None:
    raw, _ = opened(tmp_path, json.dumps({"id": value, "text": value}) + "\n")
    assert rows(repaired(raw)) == [(value, value)]
    assert value == "NaN" or not is_plain(raw)


def test_nan_is_missing(tmp_path: Path) -> None:
    raw, _ = opened(tmp_path, '{"id":"a","text":NaN}\n')
    assert rows(repaired(raw)) == [("a", None)]


def test_half_characters_are_replaced(tmp_path: Path) -> None:
    raw, _ = opened(tmp_path, r'{"id":"a","text":"x\ud83d"}' + "\n")
    assert rows(raw) == [("a", "x?")]
    raw, _ = opened(tmp_path, r'{"id":"a","text":"\ud83d\ude00"}' + "\n")
    assert rows(raw) == [("a", "😀")]


@pytest.mark.parametrize(
    ("text", "start"),
    [('[\n{"id":1},\n{"id":2}]\n', "a JSON list"), ('{\n"id": 1}\n', "'{'"), ("id\n1\n", "'id'")],
)
def test_other_layouts_of_json_are_an_error(tmp_path: Path, text: str, start: str) -> None:
    with pytest.raises(DataError, match=rf"starts with {start}\. Write one JSON object per line"):
        opened(tmp_path, text)
