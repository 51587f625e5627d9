"""Prompts: load, render and hash the files in `templates/`.

Rendering yields `Prompt` records of text and image parts; a model's markup is added later, by
its own processor. Text that comes from items or from a model is data: `clean` makes it one
line without control characters or double quotes, so that it cannot leave its delimiters.
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

# Private-use characters that stand for parts while a template is rendered; `clean` removes them
# from all data, so that only `render` can have put them there.
_IMAGE: Final = "\ue000"
_TRIM_START: Final = "\ue001"
_TRIM_END: Final = "\ue002"


@dataclass(frozen=True, slots=True)
class ItemType:
    """The words with which prompts speak of items.

    Attributes:
        item_type: One item.
        item_types: Several items.
        choose: What a user does with an item.
        chose: The same, in the past.
    """

    item_type: str
    item_types: str
    choose: str
    chose: str


ITEM_TYPES: Final[Mapping[str, ItemType]] = {
    "video": ItemType("video", "videos", "watch", "watched"),
    "film": ItemType("film", "films", "watch", "watched"),
    "product": ItemType("product", "products", "buy", "bought"),
    "item": ItemType("item", "items", "choose", "chose"),
}


def find_item_type(item_type: str) -> ItemType:
    """The words for a item_type.

    Raises:
        UnknownNameError: The item_type has no words here.
    """
    if item_type not in ITEM_TYPES:
        raise UnknownNameError(
            needed=f"a item_type out of {', '.join(ITEM_TYPES)}",
            received=repr(item_type),
            remedy="choose one of them, for instance 'item'",
        )
    return ITEM_TYPES[item_type]


@functools.lru_cache(maxsize=4096)  # one preference stands in many prompts
def clean(text: str, *, max_chars: int = 2000) -> str:
    """Make text safe to stand between double quotes inside a prompt.

    Args:
        text: Any text, from an item or from a model.
        max_chars: Longest result, in characters; cut at a word's end where there is one.

    Returns:
        One line in NFC: white space folded, control, format, private-use and unassigned
        characters removed, double quotes made single.
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
    return head.rstrip() if space and len(head) > max_chars // 2 else cut


def calibrate(text: str, max_words: int) -> tuple[str, bool]:
    """Cut a model's answer to a length limit, at a sentence's end where there is one.

    Args:
        text: The answer.
        max_words: Longest result, in words.

    Returns:
        The text, cleaned, and whether something was cut.
    """
    text = clean(text)
    words = text.split(" ")
    if len(words) <= max_words:
        return text, False
    cut = " ".join(words[:max_words])
    sentences = re.match(r".*[.!?](?=\s|$)", cut)
    return (sentences.group(0) if sentences else cut), True


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - plain text, never HTML
    )


def _source(name: str) -> str | None:
    resource = files("mllm_msr.prompts") / "templates" / name
    return resource.read_text(encoding="utf-8") if resource.is_file() else None


def template_hash(name: str, *, item_type: str = "item") -> str:
    """Hexadecimal SHA-256 of a template's source, as used for a item_type."""
    return hashlib.sha256(_template_source(name, item_type).encode()).hexdigest()


@functools.cache
def _template(name: str, item_type: str) -> jinja2.Template:
    _template_source(name, item_type)
    return _environment().select_template([f"{item_type}/{name}.jinja", f"{name}.jinja"])


def _template_source(name: str, item_type: str) -> str:
    source = _source(f"{item_type}/{name}.jinja") or _source(f"{name}.jinja")
    if source is None:
        raise UnknownNameError(
            needed="the name of a prompt in templates/",
            received=repr(name),
            remedy="see templates/README.md for the names",
        )
    return source


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
    """Fill a template and make a one-turn dialogue of it.

    Args:
        name: Template's name, without its ending.
        data: The template's variables; strings (and strings in lists) are cleaned.
        item_type: A key of `ITEM_TYPES`.
        image: Image to show where the template says `image`.
        trimmable: Names of the variables that a token budget may cut, the first before the second.
        max_new_tokens: Upper bound of the answer, in tokens.
        max_text_tokens: Budget of the prompt's text, in tokens.

    Raises:
        UnknownNameError: There is no such template or item_type.
    """
    words = find_item_type(item_type)
    values = {key: _cleaned(value) for key, value in data.items()}
    for turn, key in enumerate(trimmable, start=1):
        values[key] = f"{_TRIM_START}{turn}{values[key]}{_TRIM_END}"
    text = _template(name, item_type).render(
        **values,
        item_type=words.item_type,
        item_types=words.item_types,
        choose=words.choose,
        chose=words.chose,
        image=_IMAGE if image is not None else "",
    )
    return Prompt(
        messages=(Message("user", tuple(_parts(text.strip(), image))),),
        max_new_tokens=max_new_tokens,
        max_text_tokens=max_text_tokens,
    )


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple):
        return [_cleaned(element) for element in value]
    return value


def _parts(text: str, image: Path | None) -> list[Part]:
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
