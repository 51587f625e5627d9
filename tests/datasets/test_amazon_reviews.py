"""Amazon reviews: the three releases, and errors for damaged files."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from mllm_msr.datasets.amazon_reviews import AmazonReviews
from mllm_msr.errors import DataError

Rows = Sequence[Mapping[str, object]]

OLD_REVIEWS: Rows = [
    {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1400000000, "x": [0, 1]},
    {"reviewerID": "A1", "asin": "B2", "overall": 2.0, "unixReviewTime": 1400000001},
]
NEW_REVIEWS: Rows = [
    {"user_id": "AE1", "asin": "X", "parent_asin": "B1", "rating": 5.0, "timestamp": 1588687728923}
]


def write_lines(path: Path, rows: Rows) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_release_2014(tmp_path: Path) -> None:
    write_lines(tmp_path / "reviews_Baby_5.json.gz", OLD_REVIEWS)
    literal = repr(
        {
            "asin": "B1",
            "title": "Don't",
            "description": "Soft &amp; <b>warm</b>",
            "imUrl": "http://i/1.jpg",
        }
    )
    with gzip.open(tmp_path / "meta_Baby.json.gz", "wt") as file:
        file.write(f"{literal}\n{{'asin': 'B2'}}\n")
    data = AmazonReviews(path=tmp_path)
    raw = data.load()
    assert raw.item_type == "product"
    assert raw.interactions.collect().rows() == [
        ("A1", "B1", 1_400_000_000_000),
        ("A1", "B2", 1_400_000_001_000),
    ]
    assert raw.items.rows() == [("B1", "Don't", "Soft & warm.", None), ("B2", "", "", None)]
    assert data.load().image_urls.rows() == [("B1", "https://i/1.jpg")]


def test_release_2018(tmp_path: Path) -> None:
    write_lines(tmp_path / "Video_Games_5.json.gz", OLD_REVIEWS)
    meta = {
        "asin": "B1",
        "title": "Game",
        "description": ["<p>Jump.</p><script>track()</script>", ""],
        "feature": ["Two players", "8 < 9 bits"],
        "imageURLHighRes": ["https://i/a.jpg", "https://i/b.jpg"],
    }
    write_lines(tmp_path / "meta_Video_Games.json.gz", [meta])
    data = AmazonReviews(path=tmp_path, category="Video_Games", min_rating=3)
    raw = data.load()
    assert raw.interactions.collect()["item_id"].to_list() == ["B1"]
    assert raw.items["text"].to_list() == ["Jump. Two players. 8 < 9 bits."]
    links = [("B1", "https://i/a.jpg"), ("B1", "https://i/b.jpg")]
    assert data.load().image_urls.rows() == links


def test_release_2023(tmp_path: Path) -> None:
    write_lines(tmp_path / "Video_Games.jsonl", NEW_REVIEWS)
    images = [{"thumb": "https://i/t.jpg", "large": "https://i/l.jpg", "hi_res": None}]
    meta = {"parent_asin": "B1", "title": "Game", "features": ["Fun"], "images": images}
    write_lines(tmp_path / "meta_Video_Games.jsonl", [meta])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "B1.jpg").touch()
    data = AmazonReviews(path=tmp_path)
    raw = data.load()
    assert raw.interactions.collect().rows() == [("AE1", "B1", 1_588_687_728_923)]
    assert raw.items.rows() == [("B1", "Game", "Fun.", str(tmp_path / "images" / "B1.jpg"))]
    assert data.load().image_urls.rows() == [("B1", "https://i/l.jpg")]


def test_release_2023_interactions_as_csv(tmp_path: Path) -> None:
    rows = "user_id,parent_asin,rating,timestamp\nAE1,B1,5.0,1588687728923\n"
    (tmp_path / "Baby.csv.gz").write_bytes(gzip.compress(rows.encode()))
    write_lines(tmp_path / "meta_Baby.jsonl", [{"parent_asin": "B1", "title": "Toy"}])
    raw = AmazonReviews(path=tmp_path).load()
    assert raw.interactions.collect().rows() == [("AE1", "B1", 1_588_687_728_923)]


def test_the_sources_describe_both_files(folder: Path) -> None:
    raw = AmazonReviews(path=folder).load()
    assert [(s.path.name, s.content) for s in raw.sources] == [
        ("Baby.jsonl", "interactions"),
        ("meta_Baby.jsonl", "items"),
    ]
    assert raw.images is not None
    assert (raw.images.folder, raw.images.n_files) == (folder / "images", 0)


def test_two_categories_in_one_folder_are_an_error(tmp_path: Path) -> None:
    for name in ("meta_Baby.jsonl", "meta_Toys.jsonl"):
        write_lines(tmp_path / name, [])
    with pytest.raises(DataError, match=r"2 files .*: meta_Baby\.jsonl, meta_Toys\.jsonl"):
        AmazonReviews(path=tmp_path).load()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_lines(tmp_path / "meta_Baby.jsonl", [{"parent_asin": "B1"}])
    write_lines(tmp_path / "Baby.jsonl", NEW_REVIEWS)
    return tmp_path


@pytest.mark.parametrize("name", ["Baby.jsonl", "meta_Baby.jsonl"])
@pytest.mark.parametrize(
    "line", [b'{"user_id": "AE2", "parent_as', b"x <![n00b y", b"[" * 100_000, b"5"]
)
def test_a_bad_line_is_an_error_with_its_number_or_counted(
    folder: Path, name: str, line: bytes
) -> None:
    with (folder / name).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(DataError, match=rf"Line 2 of {name} is not a.*on_bad_rows=drop"):
        AmazonReviews(path=folder).load()
    raw = AmazonReviews(path=folder, on_bad_rows="drop").load()
    assert raw.interactions.collect().height == raw.items.height == 1
    dropped = {source.path.name: sum(source.dropped.values()) for source in raw.sources}
    assert dropped == {"Baby.jsonl": 0, "meta_Baby.jsonl": 0} | {name: 1}


def test_unknown_fields_are_an_error(folder: Path) -> None:
    write_lines(folder / "Baby.jsonl", [{"user": "AE1", "item": "B1"}])
    with pytest.raises(
        DataError, match=r"no columns user_id, parent_asin.* columns are user, item"
    ):
        AmazonReviews(path=folder).load()


def test_a_review_without_a_rating_is_an_error(folder: Path) -> None:
    write_lines(folder / "Baby.jsonl", [*NEW_REVIEWS, {**NEW_REVIEWS[0], "rating": None}])
    with pytest.raises(DataError, match=r"2 of Baby\.jsonl has no value in the column rating"):
        AmazonReviews(path=folder).load()


def test_a_damaged_archive_is_an_error(folder: Path) -> None:
    (folder / "Baby.jsonl").unlink()
    whole = gzip.compress(json.dumps(NEW_REVIEWS[0]).encode() * 99)
    (folder / "Baby.jsonl.gz").write_bytes(whole[:-15])
    with pytest.raises(DataError, match=r"Cannot read Baby\.jsonl\.gz"):
        AmazonReviews(path=folder).load()
