"""Datasets from files: names and columns as settings, images, and errors."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mllm_msr.datasets.files import Files
from mllm_msr.errors import DataError, SettingsError
from mllm_msr.interfaces import RawData


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\na,1,5\na,2,6\n")
    (tmp_path / "items.csv").write_text("item_id,title,text\n1,One,First\n2,Two,\n")
    return tmp_path


def test_default_file_and_column_names(folder: Path) -> None:
    raw = Files(path=folder).load()
    assert (raw.item_type, raw.ordered_by) == ("item", "time")
    assert raw.interactions.collect().rows() == [("a", "1", 5000), ("a", "2", 6000)]
    assert raw.items.rows() == [("1", "One", "First", None), ("2", "Two", "", None)]


def test_file_and_column_names_are_settings(tmp_path: Path) -> None:
    frame = pl.DataFrame({"who": [1, 1], "what": [7, 8], "stars": [5.0, 1.0]})
    frame.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "catalog.tsv").write_text("what\tname\tnote\tcover\n7\tSeven\tlucky\tp/x.png\n")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "x.png").touch()
    raw = Files(
        path=tmp_path,
        interactions_file="log.parquet",
        items_file="catalog.tsv",
        user_column="who",
        item_column="what",
        time_column=None,
        rating_column="stars",
        min_rating=2,
        title_column="name",
        text_column="note",
        image_column="cover",
        item_type="product",
    ).load()
    assert (raw.item_type, raw.ordered_by) == ("product", "rank")
    assert raw.interactions.collect().rows() == [("1", "7", 0)]
    assert raw.items.rows() == [("7", "Seven", "lucky", str(tmp_path / "p" / "x.png"))]


def test_images_are_found_by_item_id(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "2.webp").touch()
    images = Files(path=folder).load().items["image"].to_list()
    assert images == [None, str(folder / "images" / "2.webp")]


def test_a_column_that_is_null_is_not_read(folder: Path) -> None:
    (folder / "images").mkdir()
    (folder / "images" / "2.webp").touch()
    (folder / "items.csv").write_text("item_id,title,text,image\n1,One,a,gone.png\n2,Two,b,x.png\n")
    raw = Files(path=folder, image_column=None, text_column=None).load()
    found = str(folder / "images" / "2.webp")
    assert raw.items.rows() == [("1", "One", "", None), ("2", "Two", "", found)]
    assert raw.sources[1].ignored == ("text", "image")
    nothing = Files(path=folder, title_column=None, text_column=None, image_column=None).load()
    assert nothing.items["title"].to_list() == ["", ""]


def test_a_named_image_that_does_not_exist_keeps_its_path(folder: Path) -> None:
    """Check that it is counted as missing, unlike an item without an image."""
    (folder / "items.csv").write_text("item_id,image\n1,gone.jpg\n")
    assert Files(path=folder).load().items["image"].to_list() == [str(folder / "images/gone.jpg")]


def test_ids_may_be_numbers_in_one_file_and_text_in_the_other(folder: Path) -> None:
    (folder / "interactions.csv").unlink()
    pl.DataFrame({"user_id": [1], "item_id": [2], "timestamp": [3]}).write_parquet(
        folder / "interactions.parquet"
    )
    raw = Files(path=folder).load()
    assert set(raw.interactions.collect()["item_id"]) <= set(raw.items["item_id"])


def test_a_configured_column_must_exist(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"items\.csv has no column titel.*'title' is similar to 'titel'"
    ):
        Files(path=folder, title_column="titel").load()
    with pytest.raises(
        DataError, match=r"interactions\.csv has no column time\..*'timestamp' is similar"
    ):
        Files(path=folder, time_column="time").load()


def test_a_missing_item_table_is_an_error(folder: Path) -> None:
    (folder / "items.csv").unlink()
    with pytest.raises(DataError, match=r"no file with items \(items\.csv, "):
        Files(path=folder).load()


def test_an_unclosed_quotation_mark_is_an_error(folder: Path) -> None:
    (folder / "items.csv").write_text('item_id,title\n1,"One\n2,Two\n')
    with pytest.raises(DataError, match="starts in line 2 and is not closed"):
        Files(path=folder).load()


LOG = pl.DataFrame(
    {
        "user_id": ["003", "003", "3", "1e5", "ü"],
        "item_id": ["007", "é", "7", "007", "a b"],
        "timestamp": [1_700_000_000 + n for n in range(5)],
        "stars": [4.5, 1.5, 5.0, 4.0, 4.5],
    }
)
CATALOG = pl.DataFrame(
    {
        "item_id": ["007", "7", "é", "a b"],
        "title": ["Café; noir", 'The "best"', "Tea, hot", None],
        "text": ["one", None, "two | three", "four"],
    }
)


def csv(**options: Any) -> Callable[[pl.DataFrame], bytes]:
    encoding = options.pop("encoding", "utf-8")
    return lambda frame: frame.write_csv(**options).encode(encoding)


def binary(write: str) -> Callable[[pl.DataFrame], bytes]:
    def to_bytes(frame: pl.DataFrame) -> bytes:
        file = io.BytesIO()
        getattr(frame, write)(file)
        return file.getvalue()

    return to_bytes


@pytest.mark.parametrize(
    ("suffix", "write", "settings"),
    [
        ("csv", csv(separator=";", decimal_comma=True), {}),
        ("csv", csv(separator="\t"), {}),
        ("csv", csv(separator=" "), {"separator": "space"}),
        ("csv", csv(separator="\x01"), {"separator": "\x01"}),
        ("tsv", csv(separator="\t", decimal_comma=True), {}),
        ("csv", csv(separator="^"), {"separator": "^"}),
        ("csv", csv(encoding="utf-16"), {}),
        ("csv", csv(encoding="utf-8-sig"), {}),
        ("csv", csv(encoding="latin-1"), {"encoding": "latin-1"}),
        ("csv", csv(separator="\t"), {"separator": "tab"}),
        ("csv.gz", lambda frame: gzip.compress(frame.write_csv().encode()), {}),
        ("jsonl", lambda frame: frame.write_ndjson().encode(), {}),
        ("jsonl", lambda frame: frame.write_ndjson().encode("utf-8-sig"), {}),
        ("parquet", binary("write_parquet"), {}),
        ("xlsx", binary("write_excel"), {}),
    ],
)
def test_files_of_every_kind_give_the_same_data(
    tmp_path: Path, suffix: str, write: Callable[[pl.DataFrame], bytes], settings: dict[str, Any]
) -> None:
    def load(folder: Path, **settings: Any) -> RawData:
        return Files(path=folder, rating_column="stars", min_rating=2, **settings).load()

    for name, kind, how in (("plain", "csv", csv()), ("other", suffix, write)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"interactions.{kind}").write_bytes(how(LOG))
        (tmp_path / name / f"items.{kind}").write_bytes(how(CATALOG))
    expected, found = load(tmp_path / "plain"), load(tmp_path / "other", **settings)
    assert found.interactions.collect().equals(expected.interactions.collect())
    assert found.items.equals(expected.items)
    assert [source.n_rows for source in found.sources] == [5, 4]
    assert [source.path.name for source in found.sources] == [
        f"interactions.{suffix}",
        f"items.{suffix}",
    ]


def test_a_minimum_rating_needs_ratings(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"data\.min_rating=2 needs a column of ratings\. Set"):
        Files(path=folder, min_rating=2).load()


def test_late_fields_are_read(folder: Path) -> None:
    (folder / "items.csv").unlink()
    lines = [f'{{"item_id":"{n}","title":"x"}}\n' for n in range(10_010)]
    lines.append('{"item_id":"last","title":"x","text":"late","image":"p.jpg"}\n')
    (folder / "items.jsonl").write_text("".join(lines))
    raw = Files(path=folder).load()
    assert raw.items.row(-1) == ("last", "x", "late", str(folder / "images/p.jpg"))
    assert raw.sources[1].columns["text"] == "text"


def test_float_ids_match_texts(folder: Path) -> None:
    (folder / "interactions.csv").unlink()
    frame = pl.DataFrame({"user_id": ["a", "a"], "item_id": [1.0, 2.0], "timestamp": [5, 6]})
    frame.write_parquet(folder / "interactions.parquet")
    raw = Files(path=folder).load()
    assert raw.interactions.collect()["item_id"].to_list() == raw.items["item_id"].to_list()
    frame.with_columns(item_id=pl.Series([1.0, 2.5])).write_parquet(folder / "interactions.parquet")
    with pytest.raises(
        DataError,
        match=r"Data row 2 of interactions\.parquet has 2\.5 in the column item_id, which",
    ):
        Files(path=folder).load()


def test_bad_rows_are_errors_or_dropped(folder: Path) -> None:
    """Check blank and padded ids, an empty time, and blank lines at the end."""
    with (folder / "interactions.csv").open("a") as file:
        file.write('"",1,7\n b , 2,8\nc,1,\n\n\n')
    with (folder / "items.csv").open("a") as file:
        file.write("\n,Three,\n4,a,b,c\n")
    with pytest.raises(
        DataError,
        match=r"Data row 3 of interactions\.csv has no value in the column user_id\. Correct the "
        r"data, or set data\.on_bad_rows=drop",
    ):
        Files(path=folder).load()
    raw = Files(path=folder, on_bad_rows="drop").load()
    assert raw.interactions.collect().rows()[2:] == [("b", "2", 8000)]
    assert raw.items["item_id"].to_list() == ["1", "2"]
    assert [source.dropped for source in raw.sources] == [
        {"no user_id": 1, "no timestamp": 1},
        {"more than 3 values": 1, "no item_id": 1},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"item_id":"a","text":{"en":"x"}}\n', r"text in line 1 of items\.jsonl is an object"),
        ('{"item_id":"a","text":["x"]}\n', r"text in line 1 of items\.jsonl is a list: \['x'\]"),
        ('[{"item_id":"a"}]\n', "starts with a JSON list"),
        ('{"item_id":"a"}\n{"item_id"\n', r"Line 2 of items\.jsonl is not a JSON object"),
    ],
)
def test_problems_of_json_have_their_own_message(folder: Path, text: str, message: str) -> None:
    (folder / "items.csv").unlink()
    (folder / "items.jsonl").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        Files(path=folder).load()
    assert "double quotes" not in str(caught.value)


def test_options_are_checked(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"data\.separator is ',,'"):
        Files(path=folder, separator=",,")


def test_errors_in_new_interactions_suggest_no_settings(folder: Path) -> None:
    # The settings of a run cannot be changed.
    file = folder / "new.csv"
    for rows in ("u,1,1700000000000", "u,1,", "u,1,1700000000,5,6"):
        file.write_text(f"user_id,item_id,timestamp\n{rows}\n")
        with pytest.raises(DataError) as error:
            Files(path=folder).read_interactions(file)
        assert "Set data." not in str(error.value)
        assert "set data." not in str(error.value)


def write_lists(path: Path, lists: list[list[str]]) -> None:
    """Write items with lists of images in the format of the file's suffix."""
    frame = pl.DataFrame({"item_id": ["1", "2"], "title": ["One", "Two"], "image": lists})
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        joined = "json" if path.stem.endswith("json") else "|"
        texts = [json.dumps(one) if joined == "json" else joined.join(one) for one in lists]
        frame.with_columns(image=pl.Series(texts)).write_csv(path)


@pytest.mark.parametrize(
    "name", ["items.csv", "items_json.csv", "items.tsv", "items.jsonl", "items.parquet"]
)
def test_a_column_lists_images(folder: Path, name: str) -> None:
    (folder / "items.csv").unlink()
    (folder / "images").mkdir()
    for image in ("a, b.png", "c.png"):
        (folder / "images" / image).touch()
    write_lists(folder / name, [["a, b.png", "c.png"], ["c.png"]])
    raw = Files(path=folder, items_file=name).load()
    paths = [str(folder / "images" / image) for image in ("a, b.png", "c.png")]
    assert raw.items["image"].to_list() == paths
    assert raw.items["more_images"].to_list() == [paths[1:], None]
    assert raw.images is not None
    assert raw.images.n_linked == 2


def test_other_lists_are_an_error(folder: Path) -> None:
    frame = pl.DataFrame({"item_id": ["1"], "image": [[{"url": "a.png"}]]})
    (folder / "items.csv").unlink()
    frame.write_parquet(folder / "items.parquet")
    with pytest.raises(DataError, match=r"column image .* type List\(Struct"):
        Files(path=folder).load()


def test_rows_of_an_item_may_not_differ_in_their_further_images(folder: Path) -> None:
    for image in ("a.png", "b.png", "c.png"):
        (folder / image).touch()
    (folder / "items.csv").write_text("item_id,image\n1,a.png|b.png\n1,a.png|b.png\n")
    assert Files(path=folder).load().items.height == 1
    (folder / "items.csv").write_text("item_id,image\n1,a.png|b.png\n1,a.png|c.png\n")
    with pytest.raises(DataError, match="whose rows differ in more_images"):
        Files(path=folder).load()
