r"""Cleaning of the titles and texts of items, the same for all sources.

Files and requests contain markup, entities that were escaped several times, control characters, and
invisible characters. They cost tokens, hide instructions from readers but not from models,
and make equal titles differ. `clean_text` is applied to every title and text that enters a run or
the service.

The tokenizer of HTML is our own for two reasons. To a parser that follows the standard,
`a<b then c>d` contains a tag; here only the names of real elements with well-formed attributes make
a tag, and what is not complete markup stays text. And the time of `html.parser` grows with the
square of the length for some inputs, depending on the version of Python.
"""

from __future__ import annotations

import html
import re
import unicodedata
from html.entities import html5
from typing import Final

import polars as pl

# More passes are needed only for text that is made to resist cleaning.
_MAX_PASSES: Final = 8
# Real text has fewer combining marks per letter (UAX #15 uses the same limit). Normalization takes
# time that grows with the square of their number.
_MAX_MARKS: Final = 30

# Elements of HTML, obsolete ones included. Inline elements do not separate words.
_INLINE: Final = frozenset(
    """
    a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark nobr q s samp
    small span strike strong sub sup time tt u var wbr
    """.split()  # noqa: SIM905 -- a list would have one line per name
)
_ELEMENTS: Final = _INLINE | frozenset(
    """
    address applet area article aside audio base basefont blink blockquote body br button canvas
    caption center col colgroup datalist dd details dialog dir div dl dt embed fieldset figcaption
    figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html iframe image img
    input legend li link listing main map marquee math menu meta meter nav noframes noscript object
    ol optgroup option output p param picture plaintext pre progress rb rp rt rtc ruby script
    search section select slot source style summary svg table tbody td template textarea tfoot th
    thead title tr track ul video xmp
    """.split()  # noqa: SIM905
)
# Possessive quantifiers prevent backtracking. A match can only run past another "<" inside a quoted
# value, so no character is read more than three times.
_MARKUP: Final = re.compile(
    r"""
    < (?: (?P<opening> !-- | !\[CDATA\[ )
        | (?: !doctype | !\[(?:if|endif) | \?xml ) [^<>]*+ >
        | (?P<slash> /?+ ) (?P<name> [a-z] [a-z0-9:-]*+ )
          (?P<attributes> (?:
              [\s/]*+ [^\s"'<>/=]++ \s*+ = \s*+ (?: "[^"]*+" | '[^']*+' | [^\s"'<>=`]++ )
            | [\s/]++ (?: allowfullscreen | async | autoplay | checked | compact | controls | defer
                | disabled | hidden | ismap | loop | multiple | muted | noshade | nowrap | open
                | readonly | required | reversed | selected ) (?= [\s/>] )
          )*+ )
          [\s/]*+ > )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# What ends a token whose content is not markup.
_CLOSINGS: Final = {
    "!--": re.compile("-->"),
    "![cdata[": re.compile(r"\]\]>"),
    "script": re.compile("</script[^<>]*+>", re.IGNORECASE),
    "style": re.compile("</style[^<>]*+>", re.IGNORECASE),
}

_AMPERSANDS: Final = re.compile(r"&(?:(?:amp|\#0*+38|\#x0*+26);)++", re.IGNORECASE)
_ENTITY: Final = re.compile(
    r"""&(?: \#(?=[0-9])       0*+ (?P<decimal> [0-9]{0,7}+ ) (?![0-9]) ;?+
           | \#x(?=[0-9a-f])   0*+ (?P<hexadecimal> [0-9a-f]{0,6}+ ) ;
           | (?P<named> [a-z][a-z0-9]{1,31}+ ; | (?:amp|lt|gt|quot|nbsp) (?![a-z0-9=]) ) )""",
    re.IGNORECASE | re.VERBOSE,
)

# Control, bidirectional, zero-width and invisible characters, halves of surrogate pairs, and tags,
# which only the flags of subdivisions (a black flag, then a code) need.
_INVISIBLE: Final = re.compile(
    "(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f)"
    "|[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
# Scripts in which zero-width (non-)joining characters change the shape of letters: Arabic, Syriac,
# the scripts of India and Southeast Asia, Mongolian.
_SHAPED: Final = "\u0600-\u109f\u1780-\u18af\ua800-\uabff\U00010a00-\U00011fff"
_EMOJI: Final = "\u2190-\u2bff\U0001f000-\U0001faff"
_VARIATIONS: Final = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
# These characters are removed where neither a script nor an emoji needs them.
_USELESS: Final = re.compile(
    rf"(?<![{_SHAPED}])\u200c|\u200c(?![{_SHAPED}])"
    rf"|(?<![{_SHAPED}{_EMOJI}\ufe0f])\u200d|(?<=[{_EMOJI}\ufe0f])\u200d(?![{_EMOJI}])"
    r"|(?<![\u1820-\u18aa])\u180e"
    rf"|(?<![^\s{_VARIATIONS}])[{_VARIATIONS}]"
)
# Combining marks are not word characters.
_MAYBE_MARKS: Final = re.compile(rf"[^\w\s\x00-\x7f]{{{_MAX_MARKS + 1},}}")


def clean_text(text: str) -> str:
    """Return text on one line, without markup, entities and invisible characters.

    - Tags, comments, scripts and styles are removed if they are complete; "<" stays otherwise.
    - Entities are replaced until none is left. Named ones need their semicolon, except the most
      common at the end of a word.
    - Control, bidirectional and zero-width characters are removed. Joining characters stay between
      letters of scripts that need them, and in emoji.
    - The result is in Unicode's normal form C, and white space is reduced to single spaces.

    Clean text is returned unchanged, and cleaning twice changes nothing. The time grows linearly
    with the length.
    """
    for _ in range(_MAX_PASSES):
        if text.isascii() and text.isprintable() and "<" not in text and "&" not in text:
            return " ".join(text.split())
        before = text
        text = _clean_once(text)
        if text == before:
            return text
    return _clean_once(text.replace("<", " ").replace("&", " "))


def clean_items(items: pl.DataFrame) -> pl.DataFrame:
    """Clean the columns `title` and `text` of a table; missing values become empty."""
    return items.with_columns(
        pl.Series(name, [clean_text(value) if value else "" for value in items[name]], pl.String)
        for name in ("title", "text")
    )


def _clean_once(text: str) -> str:
    text = _ENTITY.sub(_character, _AMPERSANDS.sub("&", text))
    if "<" in text:
        text = _remove_markup(text)
    text = _USELESS.sub("", _INVISIBLE.sub(r"\1", text))
    text = unicodedata.normalize("NFC", _MAYBE_MARKS.sub(_limit_marks, text))
    return " ".join(text.split())


def _character(entity: re.Match[str]) -> str:
    """Return the character of an entity; unknown names stay as they are."""
    if name := entity["named"]:
        return html5.get(name, entity[0])
    digits, base = (
        (entity["decimal"], 10) if entity["hexadecimal"] is None else (entity["hexadecimal"], 16)
    )
    return html.unescape(f"&#{int(digits or '0', base)};")


def _remove_markup(text: str) -> str:
    """Remove complete tags, comments, scripts and styles."""
    pieces: list[str] = []
    copied = position = 0
    unclosed: set[str] = set()  # searched for once; a second search would find nothing either
    while match := _MARKUP.search(text, position):
        position = end = match.end()
        opening, name = (match["opening"] or "").lower(), (match["name"] or "").lower()
        if name and not (name in _ELEMENTS or ":" in name or match["attributes"]):
            continue  # a word in angle brackets
        content = ""
        kind = opening or ("" if match["slash"] else name)
        if kind in _CLOSINGS:
            # A comment may be as short as "<!-->".
            start = end - 2 if kind == "!--" else end
            closing = None if kind in unclosed else _CLOSINGS[kind].search(text, start)
            if closing is None:
                unclosed.add(kind)
                if opening:
                    continue
            else:
                content = text[end : closing.start()] if kind == "![cdata[" else ""
                position = end = closing.end()
        pieces += (text[copied : match.start()], "" if opening or name in _INLINE else " ", content)
        copied = end
    return "".join(pieces) + text[copied:]


def _limit_marks(run: re.Match[str]) -> str:
    """Drop combining marks after the first `_MAX_MARKS` in a row."""
    kept: list[str] = []
    n_marks = 0
    for character in run[0]:
        n_marks = n_marks + 1 if unicodedata.combining(character) else 0
        if n_marks <= _MAX_MARKS:
            kept.append(character)
    return "".join(kept)
