"""Records that datasets, stages and backends exchange.

A stage builds `Prompt`s; a backend turns them into `Completion`s (generated text) or
`ChoiceScores` (log-probabilities of given answers). A dataset describes what it read as
`SourceFile`s and `SourceImages`. All records are frozen and can be written as JSON. They contain
neither tensors nor the markup of a particular model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

# Query and document are turns of rerankers, see `prompts/reranking.py`.
Role = Literal["system", "user", "assistant", "query", "document"]
FinishReason = Literal["stop", "length", "error"]

# How a checkpoint is loaded.
Precision = Literal["auto", "bfloat16", "float16", "float32", "4bit"]
# "blocked" is `models/cpu_attention.py`.
Attention = Literal["auto", "blocked", "eager", "sdpa", "flash_attention_2"]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d{1,3})?)$")]

# Ranges of constructor arguments of plugins, which are checked when settings are loaded.
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
BatchSize = Annotated[int, Field(ge=1, le=1_000_000)]
Threads = Annotated[int, Field(ge=1, le=1024)]

# Value of a variable of a chat template.
TemplateValue = bool | int | float | str

# Vector of a collaborative model, and what a soft token of a prompt stands for.
Vector = tuple[float, ...]
VectorKind = Literal["user", "item", "match"]


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the catalog.

    Attributes:
        item_id: Identifier; never part of a prompt.
        title: Title, or an empty string.
        text: Longer text such as a description or tags, or an empty string.
        image: Path of the image, or `None`.
        more_images: Paths of the second and further images, in the order in which models see them.
    """

    item_id: str
    title: str = ""
    text: str = ""
    image: Path | None = None
    more_images: tuple[Path, ...] = ()

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Return the item of a row of `tables.ITEMS`."""
        item = cls(row["item_id"] or "", row["title"] or "", row["text"] or "")
        paths = (row["image"], *(row.get("more_images") or ()))
        return item.with_images([Path(path) for path in paths if path])

    @property
    def images(self) -> tuple[Path, ...]:
        """Return the paths of all images, in order."""
        return () if self.image is None else (self.image, *self.more_images)

    def with_images(self, images: Sequence[Path]) -> Self:
        """Return the item with other images, or with none."""
        first = images[0] if images else None
        return replace(self, image=first, more_images=tuple(images[1:]))


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text in a message.

    Attributes:
        text: The text. Backends treat it as data: special tokens in it have no effect.
        trimmable: 0 if the text must not be shortened. Otherwise its rank (1, 2, ...) in the order
            in which parts are shortened, from their end, to meet a token budget: all of the first
            part before any of the second.
    """

    text: str
    trimmable: int = 0


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a message.

    Attributes:
        path: File of the image.
    """

    path: Path


@dataclass(frozen=True, slots=True)
class VectorPart:
    """Vectors of a collaborative model, which a trained projector turns into one token.

    Attributes:
        kind: "user" (the state of a user), "item" (a candidate) or "match" (both).
        vectors: The vectors of the user, the item, or both in this order; empty if the
            collaborative model does not know them.
    """

    kind: VectorKind
    vectors: tuple[Vector, ...] = ()


Part = TextPart | ImagePart | VectorPart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue.

    Attributes:
        role: Author of the turn.
        parts: Texts, images and vectors, in the order in which the model reads them.
    """

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A dialogue that ends with the turn of a user, or a document, which the model answers.

    Attributes:
        messages: The turns, oldest first.
        max_new_tokens: Maximum length of the answer in tokens; ignored by `Backend.score`.
        max_text_tokens: Maximum number of text tokens in the prompt, image tokens not included.
            Trimmable parts are shortened to meet it. `None` means the limit of the model.
    """

    messages: tuple[Message, ...]
    max_new_tokens: int = 128
    max_text_tokens: int | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Return the parts of all messages, in the order in which the model reads them."""
        return tuple(part for message in self.messages for part in message.parts)

    @property
    def texts(self) -> tuple[str, ...]:
        """Return all texts, in the order in which the model reads them."""
        return tuple(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def text(self) -> str:
        """Return the text of all messages, with one line break between messages."""
        return "\n".join(
            "".join(part.text for part in message.parts if isinstance(part, TextPart))
            for message in self.messages
        )

    @property
    def images(self) -> tuple[Path, ...]:
        """Return the paths of all images, in the order in which the model reads them."""
        return tuple(part.path for part in self.parts if isinstance(part, ImagePart))

    @property
    def vectors(self) -> tuple[VectorPart, ...]:
        """Return the vectors of a collaborative model, in the order of the prompt."""
        return tuple(part for part in self.parts if isinstance(part, VectorPart))


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer to one prompt, or the error that prevented it.

    Attributes:
        text: The answer without surrounding white space; empty if `error` is set.
        prompt_tokens: Tokens in the prompt, image tokens included.
        output_tokens: Generated tokens.
        finish_reason: "stop" (the model ended the answer), "length" (the answer reached
            `max_new_tokens`) or "error".
        error: What went wrong with this prompt, in one sentence.
        trimmed: Whether trimmable parts of the prompt were shortened.
    """

    text: str
    prompt_tokens: int = 0
    output_tokens: int = 0
    finish_reason: FinishReason = "stop"
    error: str | None = None
    trimmed: bool = False


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """Log-probabilities of given answers as the first new token.

    Attributes:
        log_probs: Natural logarithm of the probability of each choice, in the order of the
            choices. Probabilities are over the whole vocabulary, so they need not sum to one.
            Empty if `error` is set.
        prompt_tokens: Tokens in the prompt, image tokens included.
        error: What went wrong with this prompt, in one sentence.
        upper_bound: Whether a log-probability is only an upper bound. This happens if an endpoint
            lists only the most probable tokens and a choice is not among them; the choice gets
            the log-probability of the least probable token listed.
    """

    log_probs: tuple[float, ...]
    prompt_tokens: int = 0
    error: str | None = None
    upper_bound: bool = False


@dataclass(frozen=True, slots=True)
class SourceFile:
    """How a dataset read one of its files; users check it before a long run.

    Attributes:
        path: The file.
        content: What the file contains: "interactions", "items", "image links".
        format: Format in the words of users: "CSV", "Parquet", "JSON Lines", "Excel".
        encoding: Encoding of a text file ("UTF-8"); `None` for binary formats.
        separator: Separator of the columns (",", ";", a tab); `None` if the format has none.
        decimal_comma: Whether numbers have a decimal comma.
        n_rows: Number of data rows, dropped ones included; `None` if it is unknown.
        columns: Column of the file by meaning: `{"user_id": "customer", "title": "name"}`.
        ignored: Other columns of the file.
        time_unit: How times were read: "s", "ms", "us", "ns", "iso", "rank", a format such as
            "%d/%m/%Y", or "date column"; `None` if the file has no times.
        dropped: Number of rows that were not used, by reason: `{"no timestamp": 3}`.
    """

    path: Path
    content: str
    format: str
    encoding: str | None = None
    separator: str | None = None
    decimal_comma: bool = False
    n_rows: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    time_unit: str | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceImages:
    """Image files that a dataset found, and how they were assigned to items.

    Attributes:
        folder: Folder that was searched, subfolders included.
        n_files: Number of image files.
        n_linked: Number of these files that belong to an item.
        unlinked: Names of a few files that belong to no item.
        n_rejected: Number of image paths in the table of items that are not used, because they
            lead out of the dataset's folders or are neither paths nor links of the web.
        rejected: A few of these paths.
    """

    folder: Path
    n_files: int
    n_linked: int
    unlinked: tuple[str, ...] = ()
    n_rejected: int = 0
    rejected: tuple[str, ...] = ()
