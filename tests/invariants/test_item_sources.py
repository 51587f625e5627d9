"""The same items written in another way: escaped titles, other normal forms, layouts, exports."""

from __future__ import annotations

import html
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mllm_msr import registry
from mllm_msr.data.text_cleaning import clean_text

# Titles by id, in normal form C. The text of an item is its title with a period.
TITLES = {"café": "Amélie & Ström, 2 < 3", "b": 'Say "hi"; it\'s 한국어', "c%d": "Plain"}
INTERACTIONS = [("u", item_id, 1_500_000_000 + n) for n, item_id in enumerate(TITLES)]

Write = Callable[[Path, dict[str, tuple[str, str]]], None]
Form = Literal["NFC", "NFD"]


def as_csv(path: Path, columns: list[str], rows: list[tuple[object, ...]]) -> None:
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(path)


def write_files(folder: Path, items: dict[str, tuple[str, str]]) -> None:
    as_csv(folder / "interactions.csv", ["user_id", "item_id", "timestamp"], [*INTERACTIONS])
    rows = [(item_id, *texts) for item_id, texts in items.items()]
    as_csv(folder / "items.csv", ["item_id", "title", "text"], [*rows])


def write_amazon(folder: Path, items: dict[str, tuple[str, str]]) -> None:
    reviews = [
        {"user_id": user, "parent_asin": item_id, "timestamp": 1000 * time, "rating": 5}
        for user, item_id, time in INTERACTIONS
    ]
    products = [
        {"parent_asin": item_id, "title": title, "description": [text]}
        for item_id, (title, text) in items.items()
    ]
    for name, rows in (("Baby.jsonl", reviews), ("meta_Baby.jsonl", products)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_movielens(folder: Path, items: dict[str, tuple[str, str]]) -> None:
    ratings = [f"{user}::{item_id}::5::{time}\n" for user, item_id, time in INTERACTIONS]
    (folder / "ratings.dat").write_text("".join(ratings))
    films = [f"{item_id}::{title}::\n" for item_id, (title, _) in items.items()]
    (folder / "movies.dat").write_text("".join(films))


def write_microlens(folder: Path, items: dict[str, tuple[str, str]]) -> None:
    pairs = [(user, item_id, 1000 * time) for user, item_id, time in INTERACTIONS]
    as_csv(folder / "Mini_pairs.csv", ["user", "item", "timestamp"], [*pairs])
    rows = [(item_id, title) for item_id, (title, _) in items.items()]
    as_csv(folder / "Mini_titles.csv", ["item", "title"], [*rows])


SOURCES: dict[str, Write] = {
    "amazon_reviews": write_amazon,
    "files": write_files,
    "microlens": write_microlens,
    "movielens": write_movielens,
}


def load(name: str, folder: Path) -> dict[str, tuple[str, str, bytes | None]]:
    """Return title, text and content of the image of each item."""
    raw = registry.find("datasets", name)(path=folder).load()
    return {
        item_id: (title, text, Path(image).read_bytes() if image else None)
        for item_id, title, text, image in raw.items.rows()
    }


def write_images(folder: Path, layout: str, form: Form) -> None:
    for item_id in TITLES:
        name = unicodedata.normalize(form, layout.format(quote(item_id, safe="é")))
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item_id.encode())


@pytest.fixture(params=sorted(SOURCES))
def name(request: pytest.FixtureRequest) -> str:
    param: str = request.param
    return param


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("n_escapes", [0, 1, 3])
def test_escaped_titles_give_the_same_items(
    name: str, tmp_path: Path, form: Form, n_escapes: int
) -> None:
    def written(title: str) -> str:
        title = unicodedata.normalize(form, title)
        for _ in range(n_escapes):
            title = html.escape(title)
        return f"<i>{title}</i>\u200b" if n_escapes else title

    items = {item_id: (written(title), written(f"{title}.")) for item_id, title in TITLES.items()}
    SOURCES[name](tmp_path, items)
    has_text = name in {"amazon_reviews", "files"}
    assert load(name, tmp_path) == {
        item_id: (title, f"{title}." if has_text else "", None) for item_id, title in TITLES.items()
    }


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    "layout", ["{}.jpg", "{}_1.PNG", "{}-01.webp", "all/x/{}.jpeg", "{}/front.tiff"]
)
def test_other_layouts_of_images_give_the_same_items(
    name: str, tmp_path: Path, form: Form, layout: str
) -> None:
    SOURCES[name](tmp_path, {item_id: (title, "") for item_id, title in TITLES.items()})
    write_images(tmp_path, layout, form)
    images = {item_id: image for item_id, (_, _, image) in load(name, tmp_path).items()}
    assert images == {item_id: item_id.encode() for item_id in TITLES}


@pytest.mark.parametrize(
    "value", ["{}.jpg", "images/{}.jpg", "images\\{}.JPG", "./images/../images/{}.jpg", "{}", "/"]
)
def test_other_values_of_the_image_column_give_the_same_items(tmp_path: Path, value: str) -> None:
    write_images(tmp_path, "{}.jpg", "NFD")
    write_files(tmp_path, {})
    value = f"{tmp_path}/images/{{}}.jpg" if value == "/" else value
    rows = [(item_id, value.format(quote(item_id, safe="é"))) for item_id in TITLES]
    as_csv(tmp_path / "items.csv", ["item_id", "image"], [*rows])
    images = {item_id: image for item_id, (_, _, image) in load("files", tmp_path).items()}
    assert images == {item_id: item_id.encode() for item_id in TITLES}


def test_the_folder_of_images_may_be_anywhere(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    write_files(shop, {item_id: (title, "") for item_id, title in TITLES.items()})
    write_images(tmp_path, "{}.jpg", "NFC")
    files = registry.find("datasets", "files")
    for images_folder in (str(tmp_path / "images"), "../images"):
        raw = files(path=shop, images_folder=images_folder).load()
        assert [Path(image).read_text() for image in raw.items["image"]] == list(TITLES)
        assert (raw.images.n_files, raw.images.n_linked) == (3, 3)


def test_links_and_paths_elsewhere_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").touch()
    folder = tmp_path / "shop"
    folder.mkdir()
    write_files(folder, {})
    values = ["https://shop.example/1.jpg", str(tmp_path / "secret.png"), "../../secret.png"]
    as_csv(folder / "items.csv", ["item_id", "image"], [*zip(TITLES, values, strict=True)])
    raw = registry.find("datasets", "files")(path=folder).load()
    assert raw.items["image"].to_list() == [None, None, None]
    assert raw.image_urls.rows() == [("café", "https://shop.example/1.jpg")]
    assert (raw.images.n_rejected, raw.images.rejected) == (2, tuple(values[1:]))


@given(title=st.text(st.characters(exclude_categories=["Cs"])), name=st.sampled_from([*SOURCES]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_title_is_cleaned_in_the_same_way(tmp_path: Path, title: str, name: str) -> None:
    # Line ends and separators have a meaning in some formats, and a lone "\r" in others.
    title = " ".join(title.replace("::", ":").replace("\0", "").split())
    items = dict.fromkeys(TITLES, (f"a {title}", ""))
    SOURCES[name](tmp_path, items)
    found = {found for found, _, _ in load(name, tmp_path).values()}
    assert found == {clean_text(f"a {title}")}
