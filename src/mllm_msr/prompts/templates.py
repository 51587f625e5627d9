"""Prompt templates: render the Jinja files in `templates/` to `Prompt` records.

A rendered prompt consists of text and image parts; the backend adds the markup of its model later.
Text from items and from models is untrusted data: `clean` turns it into a single line without
control characters and double quotes, so that it cannot leave the quotes around it.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

import jinja2

from mllm_msr.errors import UnknownNameError
from mllm_msr.types import ImagePart, Message, Part, Prompt, TextPart

# Private-use characters that mark parts while a template is rendered. `clean` removes them from
# all data, so that only `render` can insert them.
_IMAGE: Final = "\ue000"
_TRIM_START: Final = "\ue001"
_TRIM_END: Final = "\ue002"


@dataclass(frozen=True, slots=True)
class ItemType:
    """Words for a type of item in prompts.

    Attributes:
        singular: One item.
        plural: Several items.
        choose: What a user does with an item.
        chose: Past tense of `choose`.
    """

    singular: str
    plural: str
    choose: str
    chose: str


ITEM_TYPES: Final[Mapping[str, ItemType]] = {
    "video": ItemType("video", "videos", "watch", "watched"),
    "film": ItemType("film", "films", "watch", "watched"),
    "product": ItemType("product", "products", "buy", "bought"),
    "item": ItemType("item", "items", "choose", "chose"),
}


def find_item_type(item_type: str) -> ItemType:
    """Return the words for an item type.

    Raises:
        UnknownNameError: The item type is not a key of `ITEM_TYPES`.
    """
    if item_type not in ITEM_TYPES:
        raise UnknownNameError(
            f"Unknown item type {item_type!r}. Available: {', '.join(ITEM_TYPES)}."
        )
    return ITEM_TYPES[item_type]


@functools.lru_cache(maxsize=4096)  # the same preference occurs in many prompts
def clean(text: str, *, max_chars: int = 2000) -> str:
    """Make text safe to put between double quotes in a prompt.

    Args:
        text: Any text from an item or a model.
        max_chars: Maximum length of the result in characters. Longer text is cut at the end of a
            word if possible.

    Returns:
        A single line in Unicode normalization form C: runs of white space are one space; control,
        format, private-use and unassigned characters are removed; double quotes are single quotes.
    """
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"\s+", " ", text)
    text = "".join(c for c in text if unicodedata.category(c)[0] != "C")
    text = re.sub('["\u201c\u201d\u201e\u201f\u00ab\u00bb]', "'", text)
    text = re.sub(r" +", " ", text).strip()
    if len(text) <= max_chars:
        return text
    cut = text[:max_chars]
    head, space, _ = cut.rpartition(" ")
    return head.rstrip() if space and len(head) > max_chars // 2 else cut.rstrip()


def calibrate(text: str, max_words: int) -> tuple[str, bool]:
    """Clean a model's answer and limit its length.

    Args:
        text: The answer.
        max_words: Maximum length of the result in words. Longer text is cut at the end of a
            sentence if possible.

    Returns:
        The text, and whether it was cut.
    """
    text = clean(text)
    words = text.split(" ")
    if len(words) <= max_words:
        return text, False
    cut = " ".join(words[:max_words])
    sentences = re.match(r".*[.!?](?=\s|$)", cut)
    return (sentences.group(0) if sentences else cut), True


def template_hash(name: str, *, item_type: str = "item") -> str:
    """Return the hexadecimal SHA-256 of the template that an item type uses.

    Raises:
        UnknownNameError: There is no template of this name.
    """
    return hashlib.sha256(_template_source(name, item_type).encode()).hexdigest()


def render(
    name: str,
    data: Mapping[str, object],
    *,
    item_type: str = "item",
    image: Path | None = None,
    trimmable: Sequence[str] = (),
    max_new_tokens: int = 128,
    max_text_tokens: int | None = None,
) -> Prompt:
    """Render a template to a prompt with one turn.

    Args:
        name: Name of the template, without ".jinja".
        data: Variables of the template. Strings, and strings in lists, are cleaned.
        item_type: A key of `ITEM_TYPES`.
        image: Image for the variable `image` of the template.
        trimmable: Names of the variables that may be shortened to meet a token budget, in the
            order in which they are shortened.
        max_new_tokens: Maximum length of the answer in tokens.
        max_text_tokens: Maximum number of text tokens in the prompt.

    Raises:
        UnknownNameError: There is no template or no item type of this name.
    """
    words = find_item_type(item_type)
    values = {key: _clean_value(value) for key, value in data.items()}
    for rank, key in enumerate(trimmable, start=1):
        values[key] = f"{_TRIM_START}{rank}{values[key]}{_TRIM_END}"
    text = _template(name, item_type).render(
        **values,
        item_type=words.singular,
        item_types=words.plural,
        choose=words.choose,
        chose=words.chose,
        image=_IMAGE if image is not None else "",
    )
    return Prompt(
        messages=(Message("user", tuple(_split_parts(text.strip(), image))),),
        max_new_tokens=max_new_tokens,
        max_text_tokens=max_text_tokens,
    )


@functools.cache
def _template(name: str, item_type: str) -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - prompts are plain text, not HTML
    )
    return environment.from_string(_template_source(name, item_type))


def _template_source(name: str, item_type: str) -> str:
    """Return the source of a template, preferably the one for the item type."""
    folder = files("mllm_msr.prompts") / "templates"
    for path in (folder / item_type / f"{name}.jinja", folder / f"{name}.jinja"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    known = sorted(
        path.name.removesuffix(".jinja")
        for path in folder.iterdir()
        if path.name.endswith(".jinja")
    )
    raise UnknownNameError(f"Unknown prompt template {name!r}. Available: {', '.join(known)}.")


def _clean_value(value: object) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple):
        return [_clean_value(element) for element in value]
    return value


def _split_parts(text: str, image: Path | None) -> list[Part]:
    """Split rendered text at the markers of images and trimmable variables."""
    pieces = re.split(f"({_IMAGE}\n?|{_TRIM_START}.*?{_TRIM_END})", text)
    parts: list[Part] = []
    for piece in pieces:
        if piece.startswith(_IMAGE) and image is not None:
            parts.append(ImagePart(image))
        elif piece.startswith(_TRIM_START):
            parts.append(TextPart(piece[2:-1], trimmable=int(piece[1])))
        elif piece:
            parts.append(TextPart(piece))
    return parts
