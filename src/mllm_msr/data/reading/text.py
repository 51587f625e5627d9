"""Text files: detect the encoding, check all bytes once, and open them as UTF-8.

Polars reports an invalid byte or a misplaced quotation mark far from its cause, or not at all, and
reads only UTF-8. Other encodings are converted in memory.
"""

from __future__ import annotations

import codecs
import gzip
import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from mllm_msr.data.reading.records import ReadOptions
from mllm_msr.errors import DataError

logger = logging.getLogger(__name__)

SAMPLE: Final = 1 << 18  # bytes at the start of a file that decide how it is read
_BLOCK: Final = 1 << 22  # bytes
_GZIP: Final = b"\x1f\x8b"
# A compressed file may not grow beyond both: text rarely shrinks to less than 1 %.
_LARGEST_RATIO: Final = 300
_ALWAYS_ALLOWED: Final = 1 << 30  # bytes
_BYTE_ORDER_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark is its beginning
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Files that are not texts, although their name may say so.
_SIGNATURES: Final = {
    b"PAR1": "a Parquet file. Give it the suffix .parquet",
    b"PK\x03\x04": "a ZIP archive or Excel workbook. Unpack it, or give it the suffix .xlsx",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls). Save it as .xlsx or CSV",
    b"BZh": "compressed with bzip2. Decompress it, or use gzip",
    b"\xfd7zXZ": "compressed with xz. Decompress it, or use gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd. Decompress it, or use gzip",
    b"SQLite format 3": "an SQLite database. Export its tables as CSV",
}
_UTF8: Final = {"utf-8", "utf-8-sig", "ascii"}
# In Latin-1, these are control characters; in Windows-1252, they are letters and signs.
_CONTROLS: Final = re.compile("[\x80-\x9f]")
_LONE_RETURN: Final = re.compile(rb"\r(?!\n)")
# Half of a pair of escapes for one character; Polars does not report it.
_LONE_SURROGATE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]"
)


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file and what is known about its bytes.

    Attributes:
        path: The file.
        encoding: Name of the codec.
        has_quotes: Whether there are double quotes.
        has_spaces: Whether there may be white space other than the separator and line ends.
        is_plain: Whether Polars reads the bytes correctly: all quotation marks stand at the
            borders of values, no line ends with only a carriage return, and no escape is
            half of a pair.
    """

    path: Path
    encoding: str
    has_quotes: bool = False
    has_spaces: bool = True
    is_plain: bool = True

    @property
    def codec(self) -> str:
        """Return the name of the encoding for users."""
        return {"iso8859-1": "latin-1"}.get(
            self.encoding, self.encoding.removesuffix("-sig")
        ).upper()

    def utf8(self) -> Path | bytes:
        """Return the content for Polars: the path of a UTF-8 file, or converted bytes."""
        if self.encoding in _UTF8 and self.encoding != "utf-8-sig":
            return self.path.absolute()
        with self.text() as text:
            converted = io.BytesIO()
            while block := text.read(_BLOCK):
                converted.write(block.encode("utf-8", errors="replace"))
        return converted.getvalue()

    @contextmanager
    def text(self) -> Iterator[IO[str]]:
        """Open the decoded text; line ends are kept."""
        with (
            open_binary(self.path) as file,
            io.TextIOWrapper(file, encoding=self.encoding, newline="") as text,
        ):
            yield text


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading bytes; decompress it if it is a gzip file."""
    file = path.open("rb")
    is_gzip = file.read(2) == _GZIP
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if is_gzip else file  # type: ignore[return-value]


@contextmanager
def wrap_file_errors(path: Path) -> Iterator[None]:
    """Convert errors of opening or decompressing a file to a `DataError` that names it."""
    try:
        yield
    except (EOFError, OSError, gzip.zlib.error) as cause:  # type: ignore[attr-defined]
        detail = (getattr(cause, "strerror", None) or str(cause) or type(cause).__name__).rstrip(
            "."
        )
        raise DataError(
            f"Cannot read {path.name}: {detail}. Check that the file is complete and readable."
        ) from cause


def detect_encoding(path: Path, sample: bytes, options: ReadOptions) -> str:
    """Return the name of the codec of a text file: that of its byte order mark, or the setting.

    Args:
        path: The file, for error messages.
        sample: Bytes at its start.
        options: How to read the file.

    Raises:
        DataError: The file is empty or not a text file.
    """
    if not sample:
        raise DataError(f"{path.name} is empty. Copy or download the file again.")
    for signature, problem in _SIGNATURES.items():
        if sample.startswith(signature):
            raise DataError(f"{path.name} is not a text file, but {problem}.")
    marked = next((name for mark, name in _BYTE_ORDER_MARKS.items() if sample.startswith(mark)), "")
    if marked:
        return marked
    if options.encoding is not None:
        name = codecs.lookup(options.encoding).name
        if name not in _UTF8 and _is_utf8(sample):
            logger.warning(
                "%s looks like UTF-8, but is read as %s, because data.encoding is set.",
                path.name,
                options.encoding,
            )
        return name
    n_null = sample.count(0)
    if not n_null:
        return "utf-8"
    # Of ASCII characters in UTF-16, one byte is null.
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if n_null > len(sample) / 10 and sample[start::2].count(0) > 0.9 * n_null:
            return name
    raise DataError(
        f"{path.name} is not a text file: it contains null bytes. "
        f"{_encoding_fix(options)}, or export it as CSV, Parquet or Excel (.xlsx)."
    )


def _is_utf8(sample: bytes) -> bool:
    """Return whether the start of a file is UTF-8 with other characters than ASCII."""
    try:
        # The sample may end within a character.
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False
    return not sample.isascii()


def inspect(
    path: Path, options: ReadOptions, *, separator: str = "", is_json: bool = False
) -> TextFile:
    """Read a text file once and check its encoding, quotation marks and escapes.

    Args:
        path: Text file, possibly compressed (gzip).
        options: How to read the file.
        separator: Separator of the columns; empty if quotation marks have no meaning.
        is_json: Whether it contains JSON.

    Raises:
        DataError: The file is empty, damaged, or not in this encoding.
    """
    with wrap_file_errors(path), open_binary(path) as file:
        name = detect_encoding(path, file.read(SAMPLE), options)
        file.seek(0)
        decoder = codecs.getincrementaldecoder(name)()
        quotes = _Quotes(separator.encode()) if separator else None
        lone = _Search(_LONE_SURROGATE if is_json else _LONE_RETURN)
        has_controls = False
        spaces = [space for space in b" \t\v\f\x1c\x1d\x1e\x1f" if space not in separator.encode()]
        has_spaces = False
        n_bytes = n_lines = 0
        limit = max(_ALWAYS_ALLOWED, _LARGEST_RATIO * path.stat().st_size)
        while block := file.read(_BLOCK):
            n_bytes += len(block)
            if n_bytes > limit:
                raise DataError(
                    f"{path.name} expands to more than {limit:,} bytes. Decompress it yourself if "
                    "that is right."
                )
            text = _decode(decoder, block, path, options, n_lines=n_lines)
            n_lines += text.count("\n")
            if name == "iso8859-1" and not has_controls and _CONTROLS.search(text):
                has_controls = True
                logger.warning(
                    "%s contains control characters in Latin-1. Its encoding may be another one, "
                    "such as data.encoding=cp1252.",
                    path.name,
                )
            data = block if name == "utf-8" else text.encode("utf-8", errors="replace")
            has_spaces = has_spaces or not data.isascii() or any(space in data for space in spaces)
            lone.add(data)
            if quotes is not None:
                quotes.add(data)
        _decode(decoder, b"", path, options, n_lines=n_lines, final=True)
    is_plain = not lone.finish() and (quotes is None or quotes.finish())
    has_quotes = quotes is not None and quotes.n > 0
    return TextFile(path, name, has_quotes=has_quotes, has_spaces=has_spaces, is_plain=is_plain)


def _decode(
    decoder: codecs.IncrementalDecoder,
    block: bytes,
    path: Path,
    options: ReadOptions,
    *,
    n_lines: int,
    final: bool = False,
) -> str:
    """Decode a block, and raise a `DataError` that names the line of an invalid byte."""
    pending = decoder.getstate()[0]
    try:
        return decoder.decode(block, final)
    except UnicodeError as fault:
        start = getattr(fault, "start", 0)
        data = pending + block
        line = n_lines + data.count(b"\n", 0, start) + 1
        byte = f" contains the byte 0x{data[start]:02x}" if start < len(data) else " is incomplete"
        encoding = getattr(fault, "encoding", "UTF-8").upper()
        problem = f"line {line} ends within a character" if final else f"line {line}{byte}"
        raise DataError(
            f"{path.name} is not {encoding}: {problem}. {_encoding_fix(options)}."
        ) from fault


def _encoding_fix(options: ReadOptions) -> str:
    """Return how to read a file in another encoding, without the period."""
    how = ", or set data.encoding to its encoding, for example cp1252 or shift_jis"
    return f"Save the file as UTF-8{how * options.has_settings}"


class _Search:
    """Search for a short pattern, block by block."""

    _MARGIN: Final = 12  # bytes on both sides that decide whether there is a match

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern
        self._window = b""
        self._begin = 0  # first byte of the window that is not decided
        self._is_found = False

    def add(self, data: bytes) -> None:
        """Search the next block, except for its last bytes."""
        window = self._window + data
        end = max(self._begin, len(window) - self._MARGIN)
        self._search(window, end)
        self._window = window[-2 * self._MARGIN :]
        self._begin = end - (len(window) - len(self._window))

    def finish(self) -> bool:
        """Return whether there was a match."""
        self._search(self._window, len(self._window))
        return self._is_found

    def _search(self, window: bytes, end: int) -> None:
        matches = () if self._is_found else self._pattern.finditer(window)
        self._is_found |= any(self._begin <= match.start() < end for match in matches)


class _Quotes:
    """Check that quotation marks open and close values, block by block.

    Counted from the start of the file, marks alternately open and close, and a doubled mark inside
    a value closes and opens it again. So an opening mark follows a separator, a line end, or a
    closing mark, and a closing mark comes before one of these.
    """

    def __init__(self, separator: bytes) -> None:
        self.n = 0
        self._borders = np.frombuffer(separator + b'\r\n"', dtype=np.uint8)
        self._before = b"\n"
        self._is_valid = True

    def add(self, data: bytes) -> None:
        """Check the marks in the next block."""
        # The last byte is checked together with the byte that follows it.
        data = self._before + data
        self._check(data, until=len(data) - 1)
        self._before = data[-2:] if len(data) > 1 else data

    def finish(self) -> bool:
        """Return whether all marks are at borders and closed."""
        self._check(self._before + b"\n", until=len(self._before))
        return self._is_valid and self.n % 2 == 0

    def _check(self, data: bytes, *, until: int) -> None:
        """Check the marks from the second byte up to a position."""
        if data.find(b'"', 1, until) < 0:
            return
        view = np.frombuffer(data, dtype=np.uint8)
        places = np.flatnonzero(view[1:until] == ord('"')) + 1
        opens = (np.arange(len(places)) + self.n) % 2 == 0
        neighbours = np.where(opens, view[places - 1], view[places + 1])
        self._is_valid &= bool(np.isin(neighbours, self._borders).all())
        self.n += len(places)
