"""Prompt templates: render the Jinja files in `templates/` to `Prompt` records.

Users can replace templates by a folder of their own (`prompts.folder`). These run in Jinja's
sandbox, because the folder may come with another person's run.

A rendered prompt consists of text and image parts; the backend adds the markup of its model later.
Text from items and from models is untrusted data: `clean` turns it into a single line without
control characters and double quotes, so that it cannot leave the quotes around it.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mllm_msr.errors import SettingsError, UnknownNameError
from mllm_msr.prompts.few_shot import worked_examples
from mllm_msr.prompts.item_types import ENGLISH, ItemType, find_item_type
from mllm_msr.types import ImagePart, Message, Part, Prompt, Role, TextPart

# Models limit answers in tokens, `limit_words` in words. Names, and words of scripts that are rare
# in the tokenizer's training data, take several tokens each.
TOKENS_PER_WORD: Final = 3

# Private-use characters that mark parts while a template is rendered. `clean` removes them from
# all data, so that only `render` can insert them.
_IMAGE: Final = "\ue000"
_TRIM_START: Final = "\ue001"
_TRIM_END: Final = "\ue002"
_TURN: Final = "\ue003"

# Zero-width (non-)joiners shape words in Persian and Indian scripts and join emoji.
_JOINERS: Final = "\u200c\u200d"

# Longest text of one variable, and how many times longer a text may be before it is cleaned.
_MAX_CHARACTERS: Final = 2000
_MAX_SHRINKAGE: Final = 10
_CHARACTERS_PER_WORD: Final = 16

_FOLDER: Final = Path(__file__).parent / "templates"
# Roles whose turns a template can begin with a variable such as `query_turn`.
_ROLES: Final = ("system", "query", "document")
# Values with which a user's template is tried; "" for all other variables.
_SAMPLES: Final[Mapping[str, object]] = {"summaries": ["A summary."], "words": 10}
# Templates of baselines, which follow their papers.
_OF_BASELINES: Final = frozenset({"recommend_titles"})
# Variables that do not depend on the prompt, which a template may use or not.
_WORDS: Final = frozenset({"item_type", "item_types", "choose", "chose", "language"})
# Templates whose answers are texts, and their last line if the answers are not in English.
_WRITTEN: Final = frozenset(
    {"text_summary", "image_description", "fusion", "preference_first", "preference_update"}
)
_LANGUAGE_LINE: Final = "Write the whole answer in {{ language }}, including its beginning."


@functools.lru_cache(maxsize=4096)  # the same preference occurs in many prompts
def clean(text: str, *, max_chars: int = _MAX_CHARACTERS) -> str:
    """Make text safe to put between double quotes in a prompt.

    Args:
        text: Any text from an item or a model.
        max_chars: Maximum length of the result in characters. Longer text is cut at the end of a
            word if possible.

    Returns:
        A single line in Unicode normalization form C: runs of white space are one space; control,
        format, private-use and unassigned characters are removed, except joiners; double quotes are
        single quotes.
    """
    # Far more than remains, so that huge texts take little time.
    text = unicodedata.normalize("NFC", text[: _MAX_SHRINKAGE * max_chars])
    text = re.sub(r"\s+", " ", text)
    text = "".join(c for c in text if c in _JOINERS or unicodedata.category(c)[0] != "C")
    text = re.sub('["\u201c\u201d\u201e\u201f\u00ab\u00bb]', "'", text)
    text = re.sub(r" +", " ", text).strip()
    if len(text) <= max_chars:
        return text
    cut = text[:max_chars]
    head, space, _ = cut.rpartition(" ")
    return head.rstrip() if space and len(head) > max_chars // 2 else cut.rstrip()


def is_cut(text: str) -> bool:
    """Return whether `clean` with default arguments shortens a text."""
    return len(clean(text, max_chars=2 * _MAX_CHARACTERS)) > _MAX_CHARACTERS


def limit_words(text: str, max_words: int) -> tuple[str, bool]:
    """Clean a model's answer and limit its length.

    Args:
        text: The answer.
        max_words: Maximum length of the result in words. Longer text is cut at the end of a
            sentence if possible. Text with few spaces, as in some scripts, is limited to 16
            characters per word.

    Returns:
        The text, and whether it was cut.
    """
    whole = clean(text)
    text = clean(whole, max_chars=min(max_words * _CHARACTERS_PER_WORD, _MAX_CHARACTERS))
    words = text.split(" ")
    if len(words) <= max_words and text == whole:
        return text, False
    cut = " ".join(words[:max_words])
    sentences = re.match(r".*[.!?](?=\s|$)", cut)
    return (sentences.group(0) if sentences else cut), True


def read_templates(folder: Path) -> tuple[tuple[str, str], ...]:
    """Read and check a folder with templates that replace some of those of the package.

    Args:
        folder: Folder with files such as `recommend.jinja`. Each must have the variables of the
            template that it replaces; words for items may be added or left out.

    Returns:
        Names and sources, sorted by name; the value of `ItemType.templates`.

    Raises:
        SettingsError: The folder cannot be read or has no templates, or a file replaces nothing,
            is not a template, or has other variables. The message lists every problem.
    """
    try:
        sources = {
            path.stem: path.read_text(encoding="utf-8-sig")
            for path in sorted(folder.glob("*.jinja"))
        }
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"prompts.folder: cannot read {folder}: {error}."]) from error
    problems = [f"prompts.folder: {problem}" for problem in _template_problems(sources)]
    if not sources:
        problem = f"prompts.folder is {folder}, which has no templates. Copy them from {_FOLDER}."
        problems = [problem]
    if problems:
        raise SettingsError(problems)
    return tuple(sources.items())


def template_hash(name: str, *, item_type: str | ItemType = "item") -> str:
    """Return the hexadecimal SHA-256 of the template, language and examples of an item type.

    Raises:
        UnknownNameError: There is no template of this name.
    """
    words = find_item_type(item_type)
    source = _template_source(name, words)
    if words.language != ENGLISH and "language" in _variables(source):
        source += words.language
    if words.style == "few_shot" and (examples := worked_examples(name)):
        source += str(examples)
    return hashlib.sha256(source.encode()).hexdigest()


def render(
    name: str,
    data: Mapping[str, object],
    *,
    item_type: str | ItemType = "item",
    images: Sequence[Path] = (),
    trimmable: Sequence[str] = (),
    max_new_tokens: int = 128,
    max_text_tokens: int | None = None,
) -> Prompt:
    """Render a template to a prompt with one turn, or with those that it begins itself.

    With the style "few_shot", worked examples come first, as turns of the user and the assistant.

    Args:
        name: Name of the template, without ".jinja".
        data: Variables of the template. Strings, and strings in lists, are cleaned.
        item_type: Word for an item, see `item_types.find_item_type`.
        images: Images for the variable `image` of the template, which stands for all of them.
        trimmable: Names of the variables that may be shortened to meet a token budget, in the
            order in which they are shortened.
        max_new_tokens: Maximum length of the answer in tokens.
        max_text_tokens: Maximum number of text tokens in the prompt.

    Raises:
        UnknownNameError: There is no template of this name.
        UsageError: The item type is not a word.
        SettingsError: A template of the user's own cannot be rendered.
    """
    words = find_item_type(item_type)
    values = {key: _clean_value(value) for key, value in data.items()}
    for rank, key in enumerate(trimmable, start=1):
        values[key] = f"{_TRIM_START}{rank}{values[key]}{_TRIM_END}"
    template = _compile(_template_source(name, words))
    try:
        text = template.render(
            **values,
            item_type=words.singular,
            item_types=words.plural,
            choose=words.choose,
            chose=words.chose,
            language=words.language,
            image=_IMAGE if images else "",
            **{f"{role}_turn": f"{_TURN}{role}{_TURN}" for role in _ROLES},
        )
    except jinja2.TemplateError as error:
        raise SettingsError([f"The template {name}.jinja cannot be rendered: {error}."]) from error
    return Prompt(
        messages=(*_example_turns(name, data, words), *_split_messages(text, images)),
        max_new_tokens=max_new_tokens,
        max_text_tokens=max_text_tokens,
    )


def _example_turns(name: str, data: Mapping[str, object], words: ItemType) -> Iterator[Message]:
    """Yield a question and its answer for each worked example, if the style has them."""
    if words.style != "few_shot":
        return
    for example in worked_examples(name):
        theirs = replace(find_item_type(example.item_type), templates=words.templates)
        yield from render(name, {"words": data["words"], **example.data}, item_type=theirs).messages
        yield Message("assistant", (TextPart(example.answer),))


@functools.cache
def _environment() -> jinja2.Environment:
    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )


@functools.lru_cache(maxsize=64)
def _compile(source: str) -> jinja2.Template:
    return _environment().from_string(source)


@functools.lru_cache(maxsize=64)
def _variables(source: str) -> frozenset[str]:
    """Return the variables of a template.

    Raises:
        TemplateSyntaxError: It is not a template.
    """
    return frozenset(meta.find_undeclared_variables(_environment().parse(source)))


@functools.cache
def _packaged_source(name: str, singular: str) -> str:
    """Return the source of a template of the package, preferably the one for the item type."""
    for path in (_FOLDER / singular / f"{name}.jinja", _FOLDER / f"{name}.jinja"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise UnknownNameError(f"Unknown prompt template {name!r}. Available: {', '.join(_names())}.")


def _template_source(name: str, words: ItemType) -> str:
    """Return the source of a template: the user's own, or else the one of the package.

    It asks for the language of the answers, unless it is English.
    """
    own = dict(words.templates).get(name)
    source = _packaged_source(name, words.singular) if own is None else own
    if words.language == ENGLISH or name not in _WRITTEN or "language" in _variables(source):
        return source
    return f"{source.rstrip()}\n{_LANGUAGE_LINE}"


def _names() -> list[str]:
    """Return the names of the templates of the package, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.jinja"))


def _template_problems(sources: Mapping[str, str]) -> list[str]:
    """Return one sentence for each template that cannot replace one of the package."""
    problems = []
    replaceable = [name for name in _names() if name not in _OF_BASELINES]
    for name, source in sources.items():
        if name not in replaceable:
            problems.append(
                f"{name}.jinja replaces no template. Available: {', '.join(replaceable)}."
            )
            continue
        try:
            found = _variables(source)
        except jinja2.TemplateSyntaxError as error:
            message = str(error.message).rstrip(".")
            problems.append(f"line {error.lineno} of {name}.jinja is not valid: {message}.")
            continue
        wanted = _variables(_packaged_source(name, "")) - _WORDS
        if missing := sorted(wanted - found):
            problems.append(f"{name}.jinja lacks the variables {', '.join(missing)}.")
        if unknown := sorted(found - wanted - _WORDS):
            problems.append(f"{name}.jinja has unknown variables {', '.join(unknown)}.")
            continue
        try:
            _compile(source).render({variable: _SAMPLES.get(variable, "") for variable in found})
        except Exception as error:  # noqa: BLE001 - a template can raise anything
            message = str(error).rstrip(".")
            problems.append(f"{name}.jinja cannot be rendered: {message}.")
    return problems


def _clean_value(value: object) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple):
        return [_clean_value(element) for element in value]
    return value


def _split_messages(text: str, images: Sequence[Path]) -> Iterator[Message]:
    """Split rendered text at the markers of turns; text without any is a turn of the user."""
    first, *marked = re.split(f"{_TURN}(.*?){_TURN}", text)
    turns = [*zip(marked[::2], marked[1::2], strict=True)] if marked else [("user", first)]
    for role, content in turns:
        yield Message(cast("Role", role), tuple(_split_parts(content.strip(), images)))


def _split_parts(text: str, images: Sequence[Path]) -> list[Part]:
    """Split rendered text at the markers of images and trimmable variables."""
    pieces = re.split(f"({_IMAGE}\n?|{_TRIM_START}.*?{_TRIM_END})", text)
    parts: list[Part] = []
    for piece in pieces:
        if piece.startswith(_IMAGE):
            parts += map(ImagePart, images)
        elif piece.startswith(_TRIM_START):
            parts.append(TextPart(piece[2:-1], trimmable=int(piece[1])))
        elif piece:
            parts.append(TextPart(piece))
    return parts
