"""Amazon metadata: ids, texts, the main image of every release, and bad lines."""

import gzip
import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mllm_msr.datasets._amazon_products import read_products
from mllm_msr.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meta_Baby.jsonl"


def urls(path: Path, **fields: object) -> list[str]:
    """Return the links of a product with these fields."""
    path.write_text(json.dumps({"parent_asin": "B1"} | fields))
    products, _ = read_products(path, on_bad_rows="error")
    (links,) = products["urls"].to_list()
    return links


def url(path: Path, **fields: object) -> str:
    """Return the first link, empty if there is none."""
    return next(iter(urls(path, **fields)), "")


def image(variant: str, **sizes: str | None) -> dict[str, str | None]:
    return {"variant": variant, **sizes}


def test_all_images_are_listed_once_and_the_main_image_first(path: Path) -> None:
    shown = [image("PT01", hi_res="https://i/1.jpg"), image("MAIN", large="https://i/0.jpg")]
    shown += [image("PT02", thumb="http://i/2.jpg"), image("PT03"), shown[0]]
    assert urls(path, images=shown) == [f"https://i/{number}.jpg" for number in range(3)]
    # The older fields contain the same images in several sizes.
    older = {"imageURLHighRes": ["https://i/a.jpg", "https://i/b.jpg"], "imUrl": "https://i/c.jpg"}
    assert urls(path, images=[], **older) == ["https://i/a.jpg", "https://i/b.jpg"]
    assert urls(path, images=shown, **older) == urls(path, images=shown)


def test_the_main_image_of_a_list_of_images(path: Path) -> None:
    back = image("PT01", hi_res="https://i/back.jpg")
    front = image("MAIN", thumb="https://i/t.jpg", large="https://i/l.jpg", hi_res=None)
    assert url(path, images=[back, front]) == "https://i/l.jpg"
    assert url(path, images=[image("PT02"), back]) == "https://i/back.jpg"
    assert url(path, images=[image("MAIN"), back]) == "https://i/back.jpg"


def test_the_main_image_of_one_list_per_size(path: Path) -> None:
    """Check the form that the library `datasets` exports."""
    images = {
        "hi_res": ["https://i/back.jpg", None],
        "large": ["https://i/back-l.jpg", "https://i/l.jpg"],
        "thumb": ["https://i/back-t.jpg", "https://i/t.jpg"],
        "variant": ["PT01", "MAIN"],
    }
    assert url(path, images=images) == "https://i/l.jpg"
    assert url(path, images=images | {"variant": ["PT01", "PT02"]}) == "https://i/back.jpg"
    assert url(path, images={"hi_res": ["https://i/a.jpg"]}) == "https://i/a.jpg"
    assert url(path, images={"hi_res": [], "large": [], "thumb": [], "variant": []}) == ""


def test_images_of_the_older_releases(path: Path) -> None:
    assert url(path, imUrl="http://i/1.jpg") == "https://i/1.jpg"
    assert url(path, imageURLHighRes=["", "https://i/2.jpg"]) == "https://i/2.jpg"
    assert url(path, imageURL=["https://i/3.jpg"], imageURLHighRes=[]) == "https://i/3.jpg"


@pytest.mark.parametrize("value", [None, 5, "", "1.jpg", "file:///etc/passwd", {"a": 1}, [[1]]])
def test_other_values_are_no_images(path: Path, value: object) -> None:
    assert url(path, images=value, imUrl=value) == ""


def test_texts_are_cleaned_sentences(path: Path) -> None:
    product = {
        "asin": " B1 ",
        "title": "Tom &amp;amp; <b>Jerry</b>\ud800",
        "description": ["<p>Jump.</p><script>track()</script>", "", None],
        "features": ["8 < 9 bits", 5],
    }
    path.write_text(json.dumps(product))
    products, source = read_products(path, on_bad_rows="error")
    assert products.rows() == [("B1", "Tom & Jerry", "Jump. 8 < 9 bits.", [])]
    assert source.columns == {
        "item_id": "asin",
        "title": "title",
        "text": "description, features",
    }


def test_python_literals_and_compressed_files(tmp_path: Path) -> None:
    path = tmp_path / "meta_Baby.json.gz"
    lines = [repr({"asin": "B1", "title": "Don't"}), "", repr({"asin": 7}), ""]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    products, source = read_products(path, on_bad_rows="error")
    assert products.select("item_id", "title").rows() == [("B1", "Don't"), ("7", "")]
    assert (source.n_rows, source.dropped) == (2, {})


def test_repeated_products_are_counted(path: Path) -> None:
    path.write_text("".join(json.dumps({"asin": "B1", "title": t}) + "\n" for t in "abc"))
    products, source = read_products(path, on_bad_rows="error")
    assert products["title"].to_list() == ["a"]
    assert (source.n_rows, source.dropped) == (3, {"repeated product": 2})


BAD_LINES = [
    b"x <![n00b y",
    b'{"parent_asin": "B2", "title": "cut',
    b"[" * 100_000,
    b"{" * 100_000,
    b"{'asin': " + b"-" * 100_000 + b"1}",
    b'{"asin": ' + b"1" * 5000 + b"}",
    b'{"asin": "B2", "title": "caf\xe9"}',
    b"{[]: 1}",
    b'["B2"]',
    b"\x00\xff",
]


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: repr(line[:20]))
def test_bad_lines_are_an_error_or_dropped(path: Path, line: bytes) -> None:
    path.write_bytes(b'{"asin": "B1"}\n' + line + b'\n{"asin": "B3"}\n')
    with pytest.raises(DataError, match=r"Line 2 of meta_Baby\.jsonl is not a JSON object: b['\"]"):
        read_products(path, on_bad_rows="error")
    products, source = read_products(path, on_bad_rows="drop")
    assert products["item_id"].to_list() == ["B1", "B3"]
    assert (source.n_rows, source.dropped) == (3, {"not a JSON object": 1})


@pytest.mark.parametrize("value", ["", "  ", None, ["B1"], 1.5, True, -1])
def test_a_product_without_an_id_is_bad(path: Path, value: object) -> None:
    bad = json.dumps({"parent_asin": value, "title": "x"})
    path.write_text(f'{bad}\n{{"parent_asin": "B1"}}\n')
    with pytest.raises(DataError, match=r"Line 1 of meta_Baby\.jsonl has no parent_asin"):
        read_products(path, on_bad_rows="error")
    _, source = read_products(path, on_bad_rows="drop")
    assert source.dropped == {"no product id": 1}
    path.write_text(bad)
    with pytest.raises(DataError, match=r"^The only row of meta_Baby\.jsonl is bad\. [^=]*$"):
        read_products(path, on_bad_rows="drop")


def test_long_lines_are_bad(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_msr.datasets._amazon_products._MAX_LINE", 20)
    path.write_text('{"asin": "B1"}\n{"asin": "' + "x" * 99 + '"}\n{"asin": "B3"}\n')
    products, source = read_products(path, on_bad_rows="drop")
    assert products["item_id"].to_list() == ["B1", "B3"]
    assert source.dropped == {"not a JSON object": 1}


@pytest.mark.parametrize("text", ["x <![n00b y", "&#" + "1" * 5000, "[" * 100_000, "<" * 100_000])
def test_hostile_texts_stay_in_linear_time(path: Path, text: str) -> None:
    path.write_text(json.dumps({"asin": "B1", "title": text, "description": [text]}))
    begin = time.process_time()
    products, _ = read_products(path, on_bad_rows="error")
    assert products.row(0) == ("B1", text, f"{text}.", [])
    assert time.process_time() - begin < 5


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from(["asin", "parent_asin", "title", "description", "images", "imUrl"])
LINES = st.one_of(
    st.binary(),
    st.dictionaries(FIELDS, VALUES).map(lambda row: json.dumps(row).encode()),
    st.dictionaries(FIELDS, VALUES).map(lambda row: repr(row).encode(errors="replace")),
)


@given(lines=st.lists(LINES, max_size=4), on_bad_rows=st.sampled_from(["error", "drop"]))
@example(lines=[b'{"asin": "\\ud800", "images": {"hi_res": "\\udfff"}}'], on_bad_rows="error")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_products_or_an_error(path: Path, lines: list[bytes], on_bad_rows) -> None:  # type: ignore[no-untyped-def]
    path.write_bytes(b"\n".join(lines))
    try:
        products, source = read_products(path, on_bad_rows=on_bad_rows)
    except DataError:
        return
    assert products["item_id"].is_unique().all()
    assert source.n_rows == products.height + sum(source.dropped.values())
