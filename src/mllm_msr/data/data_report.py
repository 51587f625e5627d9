"""Record of what was understood of a dataset's files; `source_report.py` creates it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mllm_msr.errors import DataError
from mllm_msr.types import SourceFile, SourceImages


def counted(n: int, name: str) -> str:
    """Return a number of things with their name in the singular or plural.

    >>> counted(1, "item"), counted(1200, "item")
    ('1 item', '1,200 items')
    """
    return f"{n:,} {name}{'' if n == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class HistoryPreview:
    """Start of the history of one user.

    Attributes:
        user_id: The user.
        n_items: Length of the history.
        items: Ids and titles of the oldest items, in order.
    """

    user_id: str
    n_items: int
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was understood of a dataset.

    Attributes:
        files: Files that were read, if the dataset describes them.
        images: Image files that were found, if the dataset describes them.
        n_interactions: Interactions in the source.
        n_users: Users in the source.
        n_items: Items that occur in the interactions.
        n_catalog: Rows of the table of items.
        ordered_by: "time" or "rank".
        first: Smallest timestamp, in milliseconds or a rank; None without interactions.
        last: Largest timestamp.
        examples: An id of a user, of an item of the interactions, and of the table of items
            ("user_id", "item_id", "catalog_id"); absent if there is none.
        n_known: Interactions whose item is in the table of items.
        n_items_known: Items of the interactions that are in the table of items.
        n_with_title: Items of the interactions with a title.
        n_with_text: The same with a text.
        n_with_image: The same with the path of an image file that exists.
        n_linked: The same without such a path, but with a link to an image.
        missing_images: Number of paths without a file, of the images that are used.
        n_decoded: Number of images that were opened, a sample of all.
        unreadable_images: Problems of those that cannot be read.
        missing_examples: Some paths without a file.
        n_with_several: Items of the interactions for which the source lists several images.
        images_per_item: Number of images of an item that are used, see `images.per_item`.
        n_incomplete: Items that lack some of these images, but not all: whose files do not exist,
            and after `prepare` those that cannot be opened or downloaded as well.
        reads_images: Whether a model reads images, so that missing ones are deficits.
        counts: Rows that were dropped and kept by filtering, by name; empty before filtering.
        histories: Histories of three users.
        warnings: Sentences about deficits.
        problems: Sentences about what makes a run useless.
    """

    files: tuple[SourceFile, ...]
    images: SourceImages | None
    n_interactions: int
    n_users: int
    n_items: int
    n_catalog: int
    ordered_by: str
    first: int | None
    last: int | None
    examples: Mapping[str, str]
    n_known: int
    n_items_known: int
    n_with_title: int
    n_with_text: int
    n_with_image: int
    n_linked: int
    missing_images: int
    n_decoded: int
    unreadable_images: tuple[str, ...]
    missing_examples: tuple[str, ...]
    n_with_several: int = 0
    images_per_item: int = 1
    n_incomplete: int = 0
    reads_images: bool = True
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    histories: tuple[HistoryPreview, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def with_problem(self, problem: str) -> DataReport:
        """Return the report with one more problem."""
        return dataclasses.replace(self, problems=(*self.problems, problem))

    def require_usable(self) -> None:
        """Check that the report has no problem.

        Raises:
            DataError: It has; the message contains all problems.
        """
        if self.problems:
            raise DataError("\n".join(self.problems))

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that can be written as JSON."""
        values = dataclasses.asdict(self)
        for file in values["files"]:
            file["path"] = str(file["path"])
        if self.images is not None:
            values["images"]["folder"] = str(self.images.folder)
        return values
