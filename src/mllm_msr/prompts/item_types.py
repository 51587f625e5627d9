"""Words for items in prompts: "video", "product", or any other word.

Some words have verbs of their own ("watch", "buy"); all others use "choose". A word can bring its
forms: "mouse/mice" or "book/books/read/read".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from mllm_msr.errors import UsageError

PromptStyle = Literal["plain", "few_shot"]

ENGLISH: Final = "English"
_CHOOSE: Final = ("choose", "chose")
# Letters, and within them digits, spaces, hyphens and apostrophes.
_WORD: Final = re.compile(r"[^\W\d_](?:[\w '’-]{0,38}\w)?")


@dataclass(frozen=True, slots=True)
class ItemType:
    """Words for a type of item in prompts, and templates, language and style of the prompts.

    Attributes:
        singular: One item.
        plural: Several items.
        choose: What a user does with an item.
        chose: Past tense of `choose`.
        templates: Names and sources of templates that replace those of the package, see
            `templates.read_templates`.
        language: Language of the answers, by its English name.
        style: Whether `templates.render` shows worked examples before a prompt.
    """

    singular: str
    plural: str
    choose: str = _CHOOSE[0]
    chose: str = _CHOOSE[1]
    templates: tuple[tuple[str, str], ...] = ()
    language: str = ENGLISH
    style: PromptStyle = "plain"

    def __str__(self) -> str:
        """Return the text from which `find_item_type` makes these words."""
        forms = (self.singular, self.plural, self.choose, self.chose)
        known = find_item_type(self.singular)
        same = forms == (known.singular, known.plural, known.choose, known.chose)
        return self.singular if same else "/".join(forms)


ITEM_TYPES: Final[Mapping[str, ItemType]] = {
    "video": ItemType("video", "videos", "watch", "watched"),
    "film": ItemType("film", "films", "watch", "watched"),
    "product": ItemType("product", "products", "buy", "bought"),
    "item": ItemType("item", "items", "choose", "chose"),
}


def find_item_type(item_type: str | ItemType) -> ItemType:
    """Return the words for an item type.

    Args:
        item_type: A word ("book"), or its forms: singular, plural and the verb in present and past
            tense, separated by "/". Forms that are not given follow the rules of English.

    Raises:
        UsageError: A form is not a word of at most 40 characters.

    >>> find_item_type("dish").plural
    'dishes'
    """
    if isinstance(item_type, ItemType):
        return item_type
    if item_type in ITEM_TYPES:
        return ITEM_TYPES[item_type]
    forms = [form.strip() for form in item_type.split("/")]
    if len(forms) > 4 or not all(_WORD.fullmatch(form) for form in forms):
        raise UsageError(
            f"item_type is {item_type!r}. Use a word of at most 40 letters, for example 'book', or "
            "its forms separated by '/': 'book/books/read/read'."
        )
    if len(forms) == 1:
        forms.append(_pluralize(forms[0]))
    if len(forms) == 2:
        forms += _CHOOSE
    if len(forms) == 3:
        forms.append(_past_tense(forms[2]))
    singular, plural, choose, chose = forms
    return ItemType(singular, plural, choose, chose)


def _pluralize(word: str) -> str:
    """Return the plural of an English word that follows the rules."""
    if re.search(r"[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}es" if re.search(r"(?:s|x|z|ch|sh)$", word) else f"{word}s"


def _past_tense(verb: str) -> str:
    """Return the past tense of an English verb that follows the rules."""
    if re.search(r"[^aeiou]y$", verb):
        return f"{verb[:-1]}ied"
    return f"{verb}d" if verb.endswith("e") else f"{verb}ed"
