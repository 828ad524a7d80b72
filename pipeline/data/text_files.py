"""Text files in UTF-8, or in UTF-16 with a byte order mark; gzipped or not."""

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
    """Open a file, decompressed if its name ends in `.gz`.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
    """
    with open_regular(file) as stream:
        if file.suffix.lower() == ".gz":
            with gzip.open(stream) as unpacked:
                yield cast(io.BufferedReader, unpacked)
        else:
            yield cast(io.BufferedReader, stream)


def encoding_of(stream: io.BufferedReader) -> str:
    """The encoding of a stream by its byte order mark: "utf-8", "utf-8-sig" (with a mark) or "utf-16"."""
    start = stream.peek(3)[:3]
    if start[:2] in UTF_16:
        return "utf-16"
    return "utf-8-sig" if start == codecs.BOM_UTF8 else "utf-8"


def read_lines(file: Path) -> Iterator[str]:
    """Read the lines of a text file.

    Args:
        file: The file.

    Yields:
        The lines, with untranslated line ends; bytes that are not UTF-8 become surrogates, as in file names.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
        UnicodeError: The file ends within a UTF-16 character.
        RequestError: A line is longer than LONGEST_LINE, or contains a NUL character (as in UTF-16 without a mark).
    """
    with open_unpacked(file) as stream:
        encoding = encoding_of(stream)
        errors = "strict" if encoding == "utf-16" else "surrogateescape"
        with io.TextIOWrapper(cast(BinaryIO, stream), encoding, errors, newline="") as text:
            number = 0
            while line := text.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise RequestError(f"{file}, line {number}: longer than {LONGEST_LINE:,} characters.")
                if "\0" in line:
                    raise RequestError(f"{file}, line {number}: a NUL character; save the file as text in UTF-8.")
                yield line


def as_text(name: str) -> str:
    """Convert a name to text that any format can store: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def nfc(text: str) -> str:
    """Convert text to Unicode's composed form, in which equivalent characters have equal code points."""
    return unicodedata.normalize("NFC", text)


def check_utf8(text: str, where: str) -> str:
    """Refuse text that was not UTF-8 in its file.

    Args:
        text: Text from `read_lines`.
        where: The file and the position in it, for the message.

    Returns:
        The same text.

    Raises:
        RequestError: The text has surrogates.
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
