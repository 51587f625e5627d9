"""Text of the report about a dataset's files, for the command line and the HTML report."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mllm_msr.data.data_report import counted
from mllm_msr.data.times import UNIT_NAMES

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WIDTH: Final = 80  # characters of a line
_WIDEST: Final = 26  # characters of the subjects
_LONGEST: Final = 40  # characters of an id or a title
_JOINING: Final = "\u200c\u200d"  # parts of emoji and of Persian words
_MOST_NAMES: Final = 12  # columns that are not used
_UNITS: Final = UNIT_NAMES | {
    "iso": "dates as text (ISO 8601)",
    "rank": "order only, no times",
    "date column": "column of dates",
}
_EXAMPLES: Final = {
    "user_id": "user",
    "item_id": "item",
    "catalog_id": "item in the table of items",
}
_SEPARATORS: Final = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "vertical bar"}


def report_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows (subject, finding) of the report.

    Args:
        report: Return value of `DataReport.to_dict`.
    """
    rows = [row for file in report["files"] for row in _file_rows(file)]
    examples, n_items = report["examples"], report["n_items"]
    n_interactions = report["n_interactions"]
    size = f"{n_interactions:,} of {report['n_users']:,} users with {n_items:,} items"
    rows.append(("interactions", size))
    if report["first"] is not None:
        rows.append(("time span", _span(report)))
    ids = [
        f"{name} {_short(examples[key])!r}" for key, name in _EXAMPLES.items() if key in examples
    ]
    known = (
        f"{_share(report['n_items_known'], n_items)} of the items; "
        f"{_share(report['n_known'], n_interactions)} of the interactions; "
        f"the table of items has {report['n_catalog']:,} rows"
    )
    rows += [
        ("ids", ", ".join(ids)),
        ("known items", known),
        ("titles", f"{_share(report['n_with_title'], n_items)} of the items"),
        ("texts", f"{_share(report['n_with_text'], n_items)} of the items"),
        ("images", _images(report)),
    ]
    if report["counts"]:
        rows += _filtering_rows(report["counts"])
    rows += [
        (f"user {_short(history['user_id'])}", f"{history['n_items']} items: {_titles(history)}")
        for history in report["histories"]
    ]
    return rows


def format_report(report: Mapping[str, Any]) -> str:
    """Return the report as text: one line per finding, then the warnings and problems.

    Args:
        report: Return value of `DataReport.to_dict`.
    """
    rows = report_rows(report)
    width = min(max(len(subject) for subject, _ in rows), _WIDEST)
    lines = [_wrapped(f"{subject:<{width}}  {finding}", width + 2) for subject, finding in rows]
    lines += [_wrapped(f"warning: {warning}", 9) for warning in report["warnings"]]
    lines += [_wrapped(f"problem: {problem}", 9) for problem in report["problems"]]
    return "\n".join(lines)


def _wrapped(line: str, indent: int) -> str:
    """Return a line in several lines of at most `_WIDTH` characters, except for long words."""
    # Ids come from files, so they may contain control sequences for terminals.
    line = "".join(c if c.isprintable() or c in _JOINING else "\ufffd" for c in line)
    return textwrap.fill(
        line,
        _WIDTH,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _file_rows(file: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows about one file."""
    details = [file["format"]]
    if file["encoding"]:
        details.append(file["encoding"])
    if file["separator"]:
        named = _SEPARATORS.get(file["separator"], repr(file["separator"]))
        details.append(f"separator {named}")
    if file["decimal_comma"]:
        details.append("decimal comma")
    if file["n_rows"] is not None:
        details.append(f"{file['n_rows']:,} rows")
    if file["time_unit"]:
        details.append(f"time: {_UNITS.get(file['time_unit'], file['time_unit'])}")
    rows = [(f"{file['content']} file", f"{file['path']} ({', '.join(details)})")]
    if file["columns"]:
        used = ", ".join(
            name if name == meaning else f"{name} as {meaning}"
            for meaning, name in file["columns"].items()
        )
        ignored = f"; not used: {_list(file['ignored'])}" if file["ignored"] else ""
        rows.append((f"{file['content']} columns", f"{used}{ignored}"))
    if file["dropped"]:
        dropped = ", ".join(f"{n:,} ({reason})" for reason, n in file["dropped"].items())
        rows.append((f"{file['content']} rows not used", dropped))
    return rows


def _span(report: Mapping[str, Any]) -> str:
    first, last = report["first"], report["last"]
    if report["ordered_by"] != "time":
        return f"order only, from {first} to {last}"
    return f"{_date(first)} to {_date(last)}"


def _date(milliseconds: int) -> str:
    try:
        return f"{_EPOCH + timedelta(milliseconds=milliseconds):%Y-%m-%d %H:%M} UTC"
    except OverflowError:
        return f"{milliseconds} ms after 1970"


def _images(report: Mapping[str, Any]) -> str:
    """Return the finding about images."""
    parts = [f"{_share(report['n_with_image'], report['n_items'])} of the items"]
    # Earlier versions did not count them.
    if several := report.get("n_with_several"):
        n_used = report["images_per_item"]
        limit = f"up to {n_used} are used" if n_used > 1 else "the first one is used"
        parts.append(f"{several:,} items with several images, of which {limit} (images.per_item)")
    found = report["images"]
    if found and not found["n_files"]:
        parts.append(f"no image files in {found['folder']}")
    elif found:
        parts.append(
            f"{found['n_files']:,} files in {found['folder']}, {found['n_linked']:,} belong to an "
            "item"
        )
        if found["unlinked"]:
            parts.append(f"without an item: {', '.join(found['unlinked'])}")
    if report["missing_images"]:
        parts.append(
            f"{counted(report['missing_images'], 'path')} without a file, such as "
            f"{report['missing_examples'][0]}"
        )
    if report.get("n_incomplete"):
        n_incomplete = counted(report["n_incomplete"], "item")
        parts.append(f"{n_incomplete} without some of the images")
    if report["n_linked"]:
        parts.append(f"{counted(report['n_linked'], 'item')} with a link only")
    if report["n_decoded"]:
        n_readable = report["n_decoded"] - len(report["unreadable_images"])
        parts.append(f"{n_readable:,} of {report['n_decoded']:,} opened images are readable")
    if not report.get("reads_images", True):
        parts.append("the model does not read images")
    return "; ".join(parts)


def _filtering_rows(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the rows about filtering."""
    dropped = counts["raw_interactions"] - counts["duplicates_dropped"] - counts["interactions"]
    remaining = (
        f"{counts['interactions']:,} of {counts['users']:,} users with {counts['items']:,} items"
    )
    return [
        ("duplicates", f"{counted(counts['duplicates_dropped'], 'interaction')} dropped"),
        ("filters", f"{counted(dropped, 'interaction')} dropped; {remaining} remain"),
    ]


def _titles(history: Mapping[str, Any]) -> str:
    titles = " > ".join(
        _short(title) if title else f"({_short(item_id)})" for item_id, title in history["items"]
    )
    return f"{titles} > ..." if history["n_items"] > len(history["items"]) else titles


def _short(text: str) -> str:
    """Return an id or a title of limited length."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _list(names: Sequence[str]) -> str:
    """Return a list of names of limited length."""
    more = len(names) - _MOST_NAMES
    shown = ", ".join(map(_short, names[:_MOST_NAMES]))
    return f"{shown} and {more} more" if more > 0 else shown


def _share(n: int, total: int) -> str:
    return f"{n:,} of {total:,} ({n / total:.1%})" if total else f"{n:,}"
