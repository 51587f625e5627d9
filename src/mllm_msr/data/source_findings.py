"""Findings about a dataset's files: problems make a run useless, warnings make it worse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import polars as pl

from mllm_msr.data.data_report import DataReport, counted
from mllm_msr.data.reading.rows import shown
from mllm_msr.types import SourceImages

# Share of interactions or items from which a deficit is reported.
WARNING_SHARE: Final = 0.05
_N_EQUAL: Final = 3  # items with one title
_N_COLUMNS: Final = 10  # names of columns in a message

# What programs write for a missing value, in lower case.
_PLACEHOLDERS: Final = (
    "nan", "na", "n/a", "#n/a", "<na>", "null", "(null)", "none", "(none)", "nil", "\\n",
    "undefined", "(not set)", "unknown", "guest", "anonymous",
)  # fmt: skip

# Changes that may make ids of two tables match: description, and expression for a column of ids.
_ID_CHANGES: Final[Mapping[str, pl.Expr]] = {
    "without surrounding white space": pl.col("id").str.strip_chars(),
    "in lower case": pl.col("id").str.to_lowercase(),
    "in Unicode's normal form C": pl.col("id").str.normalize("NFC"),
    "in Unicode's normal form KC": pl.col("id").str.normalize("NFKC"),
    "without what precedes the last slash": pl.col("id").str.replace(r"^.*/", ""),
    "without leading zeros": pl.col("id").str.replace(r"^0+(\d)", "$1"),
    'without ".0" at the end': pl.col("id").str.replace(r"\.0+$", ""),
    "without punctuation, white space, leading zeros and upper case": (
        pl.col("id")
        .str.to_lowercase()
        .str.replace(r"\.0+$", "")
        .str.replace_all(r"[^\p{L}\p{N}]", "")
        .str.replace(r"^0+(\d)", "$1")
    ),
}


def suggest_id_change(left: pl.Series, right: pl.Series) -> str:
    """Suggest how ids of one table could match those of another.

    Args:
        left: Ids that match nothing in the other table.
        right: Ids of the other table.

    Returns:
        A sentence about the change that makes most ids match, or an empty string if no simple
        change helps.
    """
    best, sentence = 0, ""
    left = left.filter(~left.is_in(right.implode()))
    distinct = (left.unique().alias("id").to_frame(), right.unique().alias("id").to_frame())
    for description, change in _ID_CHANGES.items():
        changed, other = (frame.with_columns(changed=change) for frame in distinct)
        pairs = changed.join(other.unique("changed"), on="changed", how="inner").sort("id")
        if pairs.height > best:
            best = pairs.height
            id_, other_id = pairs.row(0, named=True)["id"], pairs.row(0, named=True)["id_right"]
            sentence = (
                f" {pairs.height} of {changed.height} match if compared {description}, such as "
                f"{id_!r} and {other_id!r}."
            )
    return sentence


def find_problems(report: DataReport, unknown: pl.Series, known: pl.Series) -> list[str]:
    """Return what makes a run on this data useless."""
    problems = []
    if not report.n_interactions:
        dropped = [each for file in report.files for each in file.dropped.items()]
        reasons = ", ".join(f"{n} ({reason})" for reason, n in dropped)
        why = f" These rows are not used: {reasons}." if dropped else ""
        problems.append(f"There are no interactions.{why} Check the files and the settings.")
    if report.n_items and report.n_catalog and not report.n_items_known:
        hint = suggest_id_change(unknown, known)
        problems.append(
            f"None of the {report.n_items} item ids of the interactions is in the table of items. "
            f"The interactions contain, for example, {report.examples['item_id']!r}; the table of "
            f"items contains {report.examples['catalog_id']!r}.{hint} Write the ids in the same "
            "way in both files, or name the right column."
        )
    if report.reads_images and (problem := _image_problem(report, known)):
        problems.append(problem)
    return problems


def _image_problem(report: DataReport, known: pl.Series) -> str:
    """Return why no item has an image although there are files or paths; empty if some have."""
    images = report.images
    if report.n_with_image + report.n_linked:
        return ""
    if images is not None and images.n_rejected:
        return _rejected_images(images)
    if report.missing_images:
        return (
            "None of the image paths of the items exists: "
            f"{counted(report.missing_images, 'path')}, for example {report.missing_examples[0]}. "
            "Set data.images_folder to the folder of the images, or correct the paths. With "
            "data.image_column=null, images are found by the ids of the items."
        )
    # Files of other items beside images are no problem.
    if images is not None and images.n_files and not images.n_linked:
        files = pl.Series([Path(name).stem for name in images.unlinked], dtype=pl.String)
        hint = suggest_id_change(files, known)
        example = f", such as {images.unlinked[0]!r}" if images.unlinked else ""
        item = report.examples.get("catalog_id")
        return (
            f"None of the {images.n_files} image files in {images.folder} belongs to an item"
            f"{example}; an item id is {item!r}.{hint} Name each image after the id of its item, "
            f"for example {item}.jpg, or write the name into a column of the table of items."
        )
    return ""


def find_warnings(
    report: DataReport,
    items: pl.DataFrame,
    unknown: pl.Series,
    known: pl.Series,
    *,
    download_images: bool,
) -> list[str]:
    """Return the deficits of ids, titles and images.

    Args:
        report: The counts.
        items: `tables.ITEMS` of the items of the interactions.
        unknown: Ids of these items that are not in the table of items.
        known: Ids of the table of items.
        download_images: Whether linked images will be downloaded, so that they do not lack.
    """
    return [
        *_id_warnings(report, unknown, known),
        *_item_warnings(report, items),
        *(_image_warnings(report, download_images=download_images) if report.reads_images else ()),
    ]


def _id_warnings(report: DataReport, unknown: pl.Series, known: pl.Series) -> list[str]:
    """Return the deficits of ids and titles whose share is at least `WARNING_SHARE`."""
    warnings = []
    if report.n_items and not report.n_catalog:
        warnings.append("The table of items is missing or empty; no item has a title or a text.")
    elif report.n_items_known and _is_many(n := report.n_items - report.n_items_known, report):
        warnings.append(
            f"{_share(n, report)} that occur in the interactions are not in the table of items, "
            f"for example {unknown[0]!r}; they have no title, text or image."
            f"{suggest_id_change(unknown, known)}"
        )
    return warnings


def _item_warnings(report: DataReport, items: pl.DataFrame) -> list[str]:
    """Return the deficits of titles."""
    n_known = report.n_items_known
    if not n_known:
        return []  # reported with the ids
    warnings = []
    if _is_many(n := n_known - report.n_with_title, report):
        warnings.append(f"{_share(n, report)} have no title.{_title_column(report)}")
    titles = items.filter(pl.col("title") != "")["title"].value_counts(sort=True)
    if titles.height and (n := titles["count"][0]) >= _N_EQUAL and _is_many(n, report):
        warnings.append(
            f"{_share(n, report)} have the title {shown(titles['title'][0])}. Check that the title "
            "describes the item, or remove it."
        )
    n_images = report.n_with_image + report.n_linked if report.reads_images else 0
    if not report.n_with_title + report.n_with_text + n_images:
        contents = "a title, a text or an image" if report.reads_images else "a title or a text"
        warnings.append(f"No item has {contents}, so the models know nothing about the items.")
    return warnings


def find_history_warnings(report: DataReport, interactions: pl.DataFrame) -> list[str]:
    """Return what makes histories unreliable.

    Args:
        report: The report of the source.
        interactions: `tables.INTERACTIONS` after filtering.
    """
    warnings = []
    table, n_all = interactions.select("user_id", "timestamp"), interactions.height
    for column in ("user_id", "item_id"):
        is_placeholder = pl.col(column).str.to_lowercase().is_in(_PLACEHOLDERS)
        found = interactions.filter(is_placeholder)[column].value_counts().sort(column)
        warnings += [
            f"{n} interactions have the {column} {id_!r}, which other programs write for a missing "
            "value. If it is no id, remove these rows."
            for id_, n in found.rows()
        ]
    is_tied = (pl.all() == pl.all().shift()).name.keep()
    n_tied = table.select(is_tied).select(pl.all_horizontal(pl.all())).to_series().sum() or 0
    if report.ordered_by == "time" and n_tied and n_tied >= WARNING_SHARE * n_all:
        warnings.append(
            f"{n_tied} of {n_all} interactions ({n_tied / n_all:.0%}) have the same time as the "
            "one before of their user; they keep the order of the rows."
        )
    return warnings


def _title_column(report: DataReport) -> str:
    """Return a sentence about the column of titles if the file has none."""
    for file in report.files:
        if file.content == "items" and file.columns and "title" not in file.columns:
            others = ", ".join(file.ignored[:_N_COLUMNS]) or "no other columns"
            return f" The file has no such column; set data.title_column. It has {others}."
    return ""


def _image_warnings(report: DataReport, *, download_images: bool) -> list[str]:
    """Return the deficits of images."""
    warnings = []
    n_absent = report.n_items - report.n_with_image - report.n_linked
    if report.n_items_known and not report.n_with_image + report.n_linked:
        folder = None if report.images is None else report.images.folder
        where = f": there is no folder {folder}" if folder and not folder.is_dir() else ""
        warnings.append(
            f"No item has an image{where}. The models read titles and texts only."
            + (" If there are images, set data.images_folder." if where else "")
        )
    elif report.n_items_known and _is_many(n_absent, report):
        warnings.append(f"{_share(n_absent, report)} have no image.")
    if report.n_linked and not download_images:
        warnings.append(
            f"{counted(report.n_linked, 'item')} with a link to an image instead of a file. Set "
            "images.download=true to download linked images."
        )
    has_images = report.n_with_image + report.n_linked > 0
    if report.missing_images and has_images:
        warnings.append(
            f"{counted(report.missing_images, 'image path')} without a file, for example "
            f"{report.missing_examples[0]}."
        )
    if report.images and report.images.n_rejected and has_images:
        warnings.append(_rejected_images(report.images))
    if report.unreadable_images:
        warnings.append(
            f"{len(report.unreadable_images)} of {report.n_decoded} opened images cannot be read. "
            f"{report.unreadable_images[0]}"
        )
    return warnings


def _rejected_images(images: SourceImages) -> str:
    return (
        f"{images.n_rejected} image paths are not used because they lead out of the dataset's "
        f"folder or are not links of the web, for example {images.rejected[0]!r}. Copy these "
        "images into the folder, or set data.images_folder to the folder that contains them."
    )


def _is_many(n: int, report: DataReport) -> bool:
    return n >= WARNING_SHARE * report.n_items and n > 0


def _share(n: int, report: DataReport) -> str:
    return f"{n} of {report.n_items} items ({n / report.n_items:.0%})"
