"""Image files of items: names, layouts, columns with paths and links, and what is not used."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllm_msr.data.image_files import SUFFIXES, ItemImages, find_images, match_names

COMPOSED, DECOMPOSED = "café", "cafe\u0301"
# Ids that can be names of files, without a number at the end that could be that of an image.
IDS = st.sets(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
    .map(lambda text: unicodedata.normalize("NFC", text)[:20] + "x")
    .filter(lambda text: len(quote(text, safe="")) < 200),
    min_size=1,
    max_size=6,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def find(folder: Path, ids: str, *names: str | None) -> list[str | None]:
    """Return the found paths relative to the folder above the image folder."""
    found = find_images(
        ids.split(), folder, names=names or None, root=folder.parent if names else None
    )
    start = f"{folder.parent}/"
    return [path and path.removeprefix(start) for path in found.paths]


def test_images_are_found_by_id_with_any_suffix(folder: Path) -> None:
    touch(folder, "1.jpg", "2.PNG", "a.b.webp", "4.txt", "5.TIFF", "6.avif", "._7.jpg")
    touch(folder, "__MACOSX/7.jpg", ".thumbs/7.jpg")
    assert find(folder, "1 2 a.b 4 5 6 7") == [
        *("images/1.jpg", "images/2.PNG", "images/a.b.webp", None, "images/5.TIFF"),
        *("images/6.avif", None),
    ]


def test_the_order_of_suffixes_is_fixed(folder: Path) -> None:
    touch(folder, "1.png", "1.jpg", "1.webp")
    assert find(folder, "1") == ["images/1.jpg"]


@pytest.mark.parametrize(("id_", "name"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_normal_forms_of_names_do_not_matter(folder: Path, id_: str, name: str) -> None:
    touch(folder, f"{name}.jpg")
    assert find(folder, id_) == [f"images/{name}.jpg"]
    assert find(folder, "1", f"{id_}.jpg") == [f"images/{name}.jpg"]


def test_ids_may_contain_characters_that_file_names_cannot(folder: Path) -> None:
    touch(folder, "a%2Fb.jpg", "c/d.jpg", "50%.jpg", "%c3%a9.png", "x.jpg")
    assert find(folder, "a/b c/d 50% é ../x") == [
        *("images/a%2Fb.jpg", "images/c/d.jpg", "images/50%.jpg", "images/%c3%a9.png", None),
    ]


def test_an_id_may_be_the_name_of_the_file(folder: Path) -> None:
    touch(folder, "1.jpg")
    assert find(folder, "1.jpg") == ["images/1.jpg"]


def test_numbered_images(folder: Path) -> None:
    touch(folder, "a_2.jpg", "a_1.jpg", "a_10.jpg", "b-1.jpg", "c.jpg", "c_1.jpg", "d_2024.jpg")
    assert find(folder, "a b c d") == ["images/a_1.jpg", "images/b-1.jpg", "images/c.jpg", None]


def test_a_file_with_the_id_of_an_item_belongs_to_no_other_item(folder: Path) -> None:
    touch(folder, "shirt-1.jpg", "shirt-2.jpg")
    assert find(folder, "shirt shirt-1 shirt-2") == [
        *(None, "images/shirt-1.jpg", "images/shirt-2.jpg")
    ]


def test_subfolders_of_many_items(folder: Path) -> None:
    """Check folders whose names are ids of items as well."""
    touch(folder, "0/10.jpg", "0/20_1.jpg", "1/11.jpg", "1/x/21.jpg")
    assert find(folder, "0 1 10 11 20 21") == [
        *("images/0/10.jpg", "images/1/11.jpg", "images/0/10.jpg", "images/1/11.jpg"),
        *("images/0/20_1.jpg", "images/1/x/21.jpg"),
    ]


def test_a_subfolder_for_each_item(folder: Path) -> None:
    """Check files whose names are ids of other items as well."""
    touch(folder, "1/1.jpg", "2/1.jpg", "10/1.jpg", "10/2.jpg", "a%2Fb/10.jpg", "a%2Fb/9.jpg")
    assert find(folder, "1 2 10 a/b") == [
        *("images/1/1.jpg", "images/2/1.jpg", "images/10/1.jpg", "images/a%2Fb/9.jpg"),
    ]


def test_the_same_name_in_several_subfolders(folder: Path) -> None:
    touch(folder, "large/1.jpg", "large/2.jpg", "small/1.jpg", "small/2.jpg")
    assert find(folder, "1 2") == ["images/large/1.jpg", "images/large/2.jpg"]


def test_paths_in_a_column(folder: Path) -> None:
    touch(folder, "p/x.png", "y.JPG", "z.webp", "by_id.jpg")
    touch(folder.parent, "other/w.gif")
    names = (
        "p\\x.png",
        "images/y.jpg",
        "z",
        "other/w.gif",
        "../other/w.gif",
        str(folder / "y.JPG"),
    )
    assert find(folder, "1 2 3 4 5 6 by_id 8", *names, " ", "p/./../z.webp") == [
        *("images/p/x.png", "images/y.JPG", "images/z.webp", "other/w.gif", "other/w.gif"),
        *("images/y.JPG", "images/by_id.jpg", "images/z.webp"),
    ]


def test_a_named_image_that_does_not_exist_keeps_its_path(folder: Path) -> None:
    touch(folder, "1.jpg", "2.jpg")
    assert find(folder, "1 2", "gone.jpg", "2.png") == ["images/gone.jpg", "images/2.png"]


def test_a_path_in_a_folder_with_links_is_found(tmp_path: Path) -> None:
    touch(tmp_path / "disk", "1.jpg")
    (tmp_path / "shop").symlink_to(tmp_path / "disk")
    real = str(tmp_path / "disk" / "1.jpg")
    found = find_images(["1", "2"], tmp_path / "shop", names=[real, None])
    assert found.paths.to_list() == [real, None]


def test_folders_are_not_normalized(tmp_path: Path) -> None:
    """Check a folder behind a link, whose parent is not the one in the path."""
    touch(tmp_path / "disk" / "images", "1.jpg", "2.jpg")
    (tmp_path / "disk" / "shop").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "shop")
    found = find_images(["1", "2"], tmp_path / "link/../images", names=["2.jpg", None])
    assert [Path(path).is_file() for path in found.paths] == [True, True]


def outside(folder: Path) -> list[str]:
    """Return values that are not used."""
    touch(folder.parent.parent, "secret.png")
    return [
        str(folder.parent.parent / "secret.png"),
        "../../secret.png",
        "x/../../../secret.png",
        "..\\..\\secret.png",
        "C:\\Users\\me\\1.jpg",
        "\\\\host\\1.jpg",
        "file:///etc/passwd",
        "s3://bucket/1.jpg",
        "data:image/png;base64,AAAA",
        "1.jpg\0.png",
    ]


def test_only_files_of_the_dataset_are_used(tmp_path: Path) -> None:
    folder = tmp_path / "shop" / "images"
    values = outside(folder)
    touch(folder, "0.jpg")
    ids = [str(n) for n in range(len(values))]
    found = find_images(ids, folder, names=values, root=folder.parent)
    assert found.paths.to_list() == [str(folder / "0.jpg"), *[None] * (len(values) - 1)]
    assert (found.source.n_rejected, found.source.rejected) == (len(values), tuple(values[:5]))
    # A folder that the user sets may be anywhere.
    allowed = find_images(ids, tmp_path, names=values, root=folder.parent)
    assert allowed.paths[0] == str(tmp_path / "secret.png")


def test_links_are_returned_not_followed(folder: Path) -> None:
    touch(folder, "2.jpg")
    names = ["https://h/1.jpg", "HTTP://h/2.jpg", "//h/3.jpg", None]
    found = find_images(["1", "2", "3", "4"], folder, names=names)
    assert found.paths.to_list() == [None, str(folder / "2.jpg"), None, None]
    assert found.urls.rows() == [
        *[("1", "https://h/1.jpg"), ("2", "HTTP://h/2.jpg"), ("3", "https://h/3.jpg")],
    ]
    assert found.source.n_rejected == 0


def test_files_are_counted(folder: Path) -> None:
    touch(folder, "1.jpg", "b/2.png", "other.jpg", "logo.gif", "notes.txt")
    source = find_images(["1", "2", "3", None], folder).source
    assert (source.folder, source.n_files, source.n_linked) == (folder, 4, 2)
    assert source.unlinked == ("logo.gif", "other.jpg")


def test_a_missing_folder_has_no_images(folder: Path) -> None:
    found = find_images(["1"], folder)
    assert (found.paths.to_list(), found.urls.height, found.source.n_files) == ([None], 0, 0)


def test_names_that_are_not_unicode_are_left_out(folder: Path) -> None:
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).touch()
    touch(folder, "1.jpg")
    assert find_images(["1"], folder).source.n_files == 1


@given(IDS, st.sampled_from(["NFC", "NFD"]), st.sampled_from(sorted(SUFFIXES)), st.integers(0, 4))
def test_all_layouts_give_the_same_items(
    ids: set[str], form: str, suffix: str, layout: int
) -> None:
    """Write the same images in another layout, normal form or suffix."""
    layouts = ("{}", "{}_1", "{}-01", "all/{}", "{}/front")
    expected: dict[str, tuple[str]] = {}
    for id_ in sorted(ids):
        name = unicodedata.normalize(form, layouts[layout].format(quote(id_, safe="")))  # type: ignore[arg-type]
        expected[id_] = (name + suffix.upper(),)
    assert match_names(sorted(file for (file,) in expected.values()), ids) == expected


@given(st.lists(st.text()), st.lists(st.text()))
def test_any_names_are_accepted(ids: Sequence[str], names: Sequence[str]) -> None:
    rows = list(zip(ids, names, strict=False))
    found: ItemImages = find_images(
        [id_ for id_, _ in rows], Path("absent"), names=[name for _, name in rows], root=Path()
    )
    assert len(found.paths) == len(rows)
    root = f"{Path.cwd()}/"
    assert all(path is None or path.startswith(root) for path in found.paths)


LISTS = ["a.jpg;b.jpg", "a.jpg, b.jpg", "a.jpg|b.jpg", "a.jpg\nb.jpg"]
LISTS += ['["a.jpg", "b.jpg"]', "['a.jpg', 'b.jpg', None]", "a.jpg | | b.jpg|a.jpg"]


@pytest.mark.parametrize("value", LISTS, ids=range(len(LISTS)))
def test_a_list_of_names(tmp_path: Path, value: str) -> None:
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    for path in paths:
        Path(path).touch()
    found = find_images(["1", "2"], tmp_path, names=[value, "b.jpg"])
    assert found.paths.to_list() == paths
    assert found.more.to_list() == [paths[1:], None]
    assert [column.name for column in found.columns] == ["image", "more_images"]
    assert found.source.n_linked == 2
    (tmp_path / value.replace("\n", "_")).touch()
    found = find_images(["1"], tmp_path, names=[value.replace("\n", "_")])
    if value.startswith("["):  # a list rather than the name of a file
        assert found.paths.to_list() == paths[:1]
    else:
        assert found.paths.to_list() == [str(tmp_path / value.replace("\n", "_"))]
        assert len(found.columns) == 1


def test_a_comma_separates_only_names_of_files(tmp_path: Path) -> None:
    """Check that the bar separates in any case, so that missing files are reported."""
    for name in ("a, b.jpg", "c.jpg"):
        (tmp_path / name).touch()
    values = ["a, b.jpg|c.jpg", "x, y.jpg", "x.jpg|c.jpg", "x.jpg, c.jpg", "../z.jpg|c.jpg"]
    found = find_images([*"12345"], tmp_path, names=values)
    names = [[path.removeprefix(f"{tmp_path}/") for path in paths] for paths in image_lists(found)]
    assert names == [
        *(["a, b.jpg", "c.jpg"], ["x, y.jpg"], ["x.jpg", "c.jpg"], ["x.jpg", "c.jpg"], ["c.jpg"])
    ]
    assert found.source.rejected == ("../z.jpg",)


def image_lists(found: ItemImages) -> list[list[str]]:
    rows = zip(found.paths.to_list(), found.more.to_list(), strict=True)
    return [[path, *(more or ())] for path, more in rows]


@pytest.mark.parametrize("separator", [", ", ",", " | ", ";", "\n", " "])
def test_a_list_of_links(tmp_path: Path, separator: str) -> None:
    links = ["https://a.example/x,1.jpg", "https://a.example/y.jpg"]
    found = find_images(["1"], tmp_path, names=[separator.join(links)])
    assert found.urls.rows() == [("1", link) for link in links]
    assert image_lists(found) == [[None]]


def test_files_after_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "f.jpg")
    values = ["https://h/a.jpg|f.jpg", "https://h/a.jpg, https://h/b.jpg | f.jpg", "https://h/a|b"]
    found = find_images([*"123"], tmp_path, names=values)
    links = [("1", "a.jpg"), ("2", "a.jpg"), ("2", "b.jpg"), ("3", "a|b")]
    assert found.urls.rows() == [(item, f"https://h/{name}") for item, name in links]
    file = str(tmp_path / "f.jpg")
    assert image_lists(found) == [[file], [file], [None]]


def test_further_images_of_an_id(folder: Path) -> None:
    touch(folder, "a_2.jpg", "a_1.jpg", "a_1.png", "a_10.jpg", "b.jpg", "b-1.jpg", "b.png")
    touch(folder, "c/front.jpg", "c/back.jpg", "c/small/front.jpg", "d.jpg")
    found = find_images([*"abcd"], folder)
    names = [[path.removeprefix(f"{folder}/") for path in paths] for paths in image_lists(found)]
    assert names == [
        ["a_1.jpg", "a_2.jpg", "a_10.jpg"],
        ["b.jpg", "b-1.jpg"],
        ["c/back.jpg", "c/front.jpg"],
        ["d.jpg"],
    ]


def test_formats_that_cannot_be_read_are_found_only_without_another_file(tmp_path: Path) -> None:
    for name in ("1.heic", "1.jpg", "2.HEIC", "3.svg", "notes.txt"):
        (tmp_path / name).touch()
    found = find_images(["1", "2", "3"], tmp_path)
    assert found.paths.to_list() == [str(tmp_path / n) for n in ("1.jpg", "2.HEIC", "3.svg")]
    assert found.source.n_files == 4
