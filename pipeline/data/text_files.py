"""Text files as people have them: in UTF-8, or in UTF-16 where a byte order mark says so; gzipped or not."""

import codecs
import contextlib
import gzip
import io
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.core.errors import RequestError
from pipeline.core.regular_files import open_regular

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LONGEST_LINE = 2**24  # characters


@contextlib.contextmanager
def open_unpacked(file: Path) -> Iterator[io.BufferedReader]:
    """Open a file, or the content of one that ends in `.gz`.

    Raises:
        OSError: It cannot be read, or is not a regular file.
    """
    with open_regular(file) as opened:
        if file.suffix.lower() == ".gz":
            with gzip.open(opened) as unpacked:
                yield cast(io.BufferedReader, unpacked)
        else:
            yield cast(io.BufferedReader, opened)


def encoding_of(opened: io.BufferedReader) -> str:
    """The encoding of an opened file by its byte order mark: "utf-8", "utf-8-sig" (with a mark) or "utf-16"."""
    start = opened.peek(3)[:3]
    if start[:2] in UTF_16:
        return "utf-16"
    return "utf-8-sig" if start == codecs.BOM_UTF8 else "utf-8"


def read_lines(file: Path) -> Iterator[str]:
    """Read the lines of a text file.

    Args:
        file: The file.

    Yields:
        The lines with their ends, which are not translated; bytes that are not UTF-8 become surrogates, as in file
        names.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
        UnicodeError: It ends within a character of UTF-16.
        RequestError: A line is longer than LONGEST_LINE, or holds a NUL character (UTF-16 without a mark does).
    """
    with open_unpacked(file) as opened:
        encoding = encoding_of(opened)
        errors = "strict" if encoding == "utf-16" else "surrogateescape"
        with io.TextIOWrapper(cast(BinaryIO, opened), encoding, errors, newline="") as text:
            number = 0
            while line := text.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise RequestError(f"{file}, line {number}: longer than {LONGEST_LINE:,} characters.")
                if "\0" in line:
                    raise RequestError(f"{file}, line {number}: a NUL character; save the file as text in UTF-8.")
                yield line


def as_text(name: str) -> str:
    """A name as text that any format can hold: bytes that are not UTF-8 appear escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def nfc(text: str) -> str:
    """Text in Unicode's composed form, in which equal characters are equal code points."""
    return unicodedata.normalize("NFC", text)


def check_utf8(text: str, where: str) -> str:
    """Refuse text that was not UTF-8 in its file.

    Args:
        text: As `read_lines` yields it.
        where: The file and the place in it.

    Returns:
        The same text.

    Raises:
        RequestError: It has surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
        raise RequestError(
            f"{where}: {as_text(text)!r} is not in UTF-8. The file may be in Windows-1252, where this is {shown!r}; "
            "save it in UTF-8."
        ) from None
    return text
