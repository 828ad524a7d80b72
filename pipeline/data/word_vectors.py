"""Published word vectors (GloVe text, word2vec text and binary, fastText), matched to labels.

A file is read sequentially, and only the rows of words that a label may refer to are kept. Formats:
https://nlp.stanford.edu/projects/glove, https://code.google.com/archive/p/word2vec, https://fasttext.cc.
"""

import io
import itertools
import logging
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.core.errors import RequestError, cause
from pipeline.core.regular_files import check_unpacked
from pipeline.core.wording import counted, near_spellings
from pipeline.data.tables import LARGEST, check_finite
from pipeline.data.text_files import LONGEST_LINE, encoding_of, nfc, open_unpacked

log = logging.getLogger(__name__)

TEXT_SUFFIXES, BINARY_SUFFIXES = (".txt", ".vec", ".glove"), (".bin",)
LONGEST_WORD = 2000  # bytes; a binary file with a longer one is not a word2vec file, or its header is wrong
HEADER = re.compile(rb"\s*(\d{1,12})\s+(\d{1,12})\s*")
JOINERS = "\u200c\u200d"  # invisible characters within words of Persian and Indian languages
SMALLEST = 1e-30  # if the largest absolute value is below this, but not 0, the byte order is wrong
READ_AT_ONCE = 2**22  # bytes
ROWS_AT_ONCE = 4096  # rows between two checks of the unpacked size
SUGGESTED = 5  # number of missing labels to search similar spellings for

Row = tuple[int, bytes, bytes]  # line number (text) or row number (binary), word, its numbers, unparsed


def is_word_vectors(file: Path) -> bool:
    """Whether a file has a suffix of word vectors: .txt .vec .glove .bin, gzipped or not."""
    return _kind(file) in TEXT_SUFFIXES + BINARY_SUFFIXES


def _kind(file: Path) -> str:
    return (Path(file.stem) if file.suffix.lower() == ".gz" else file).suffix.lower()


def read_word_vectors(file: Path, labels: Iterable[str]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Find the vectors of labels.

    A label matches the entry with exactly its spelling; or in lower case; or with its words joined by "_", "-" or
    nothing, like published phrases; or else it gets the mean of its words' entries, each unchanged, in lower case or
    capitalised. Words end at any character that is not a letter, mark or digit, and before a capital in camelCase;
    numbers next to other words ("001.cat") are ignored. Labels matched by another spelling or a mean are logged.

    Args:
        file: The word vectors; see `is_word_vectors`.
        labels: The labels.

    Returns:
        Label -> vector, shape (D,), float32, for labels that were found; and label -> words of the file with a similar
        spelling, for the others. Only the first SUGGESTED of these get such words.

    Raises:
        RequestError: The file cannot be read, is truncated, has rows of different length or a number of rows other than
            in its header, or has two different vectors for a word. The message names the line.
    """
    labels = dict.fromkeys(labels)
    entries = _Entries(file, {spelling for label in labels for spelling in _all_spellings(label)})
    parts = {label: entries.parts_of(label) for label in labels}
    vectors = {label: entries.mean(words) for label, words in parts.items() if words}
    means = sum(len(words) > 1 for words in parts.values())
    of_means = f" ({means} as the mean of several words)" if means else ""
    log.info("%s: %d of %s found%s.", file, len(vectors), counted(len(labels), "label"), of_means)
    if respelled := [label for label in vectors if parts[label] != [nfc(label)]]:
        listed = "; ".join(f"{label!r} by {' and '.join(map(repr, parts[label]))}" for label in respelled)
        log.info("%s in another spelling: %s.", counted(len(respelled), "label"), listed)
    return vectors, _missing(file, [label for label in labels if label not in vectors], entries)


def read_vocabulary(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Iterate over all words of a file of word vectors.

    Args:
        file: The word vectors; see `is_word_vectors`.

    Yields:
        A word and its vector, shape (D,), float32.

    Raises:
        RequestError: See `read_word_vectors`; or the file has no suffix of word vectors.
    """
    if not is_word_vectors(file):
        raise RequestError(
            f"{file}: a vocabulary must be a file of word vectors (.txt, .vec, .glove, .bin, gzipped or not)."
        )
    for line, word, numbers in _rows(file):
        yield nfc(word.decode(errors="backslashreplace")), _parse(file, line, word, numbers)


def _phrases(label: str) -> list[str]:
    """Spellings of a label as one entry, most likely first."""
    joined = [
        separator.join(words) for words in (_split(label), _words(label)) for separator in ("_", "-", " ", "") if words
    ]
    return list(dict.fromkeys([nfc(label), nfc(label).lower(), *joined, *(phrase.lower() for phrase in joined)]))


def _split(label: str) -> list[str]:
    """The words and numbers of a label."""
    text = nfc(label)
    spaced = "".join(
        f" {character}" if character.isupper() and before.islower() else character if _is_in_word(character) else " "
        for before, character in zip(" " + text, text, strict=False)
    )
    return spaced.split()


def _is_in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or character in JOINERS


def _words(label: str) -> list[str]:
    """The words of a label, without numbers unless it has only numbers."""
    parts = _split(label)
    return [part for part in parts if not part.isdecimal()] or parts


def _forms(word: str) -> list[str]:
    return list(dict.fromkeys([word, word.lower(), word.capitalize(), word.upper()]))


def _all_spellings(label: str) -> list[str]:
    return [*_phrases(label), *(form for word in _words(label) for form in _forms(word))]


class _Entries:
    """The entries of a file that labels may refer to.

    Args:
        file: The word vectors, read completely.
        spellings: The words to keep, in NFC.
    """

    def __init__(self, file: Path, spellings: Iterable[str]) -> None:
        self._file = file
        self._vectors: dict[str, np.ndarray] = {}
        self._lines: dict[str, int] = {}
        self._duplicates: dict[str, int] = {}  # word -> the line with another vector
        spelling_of = {
            form.encode("utf-8", "surrogateescape"): spelling
            for spelling in spellings
            for form in (unicodedata.normalize("NFD", spelling), spelling)
        }
        for line, word, numbers in _rows(file):
            if (spelling := spelling_of.get(word)) is not None:
                vector = _parse(file, line, word, numbers)
                if not np.array_equal(self._vectors.setdefault(spelling, vector), vector):
                    self._duplicates.setdefault(spelling, line)
                self._lines.setdefault(spelling, line)

    def parts_of(self, label: str) -> list[str]:
        """The entry for the label, or the entries for its words; empty if one is missing."""
        if entry := self._first(_phrases(label)):
            return [entry]
        words = [self._first(_forms(word)) for word in _words(label)]
        return [word for word in words if word] if all(words) else []

    def has(self, word: str) -> bool:
        """Whether there is an entry for a word."""
        return self._first(_forms(word)) is not None

    def mean(self, words: Sequence[str]) -> np.ndarray:
        """The mean vector of entries."""
        for word in words:
            if word in self._duplicates:
                where = _where(self._file, self._duplicates[word])
                before = f"{_unit(self._file)} {self._lines[word]}"
                raise RequestError(f"{where}: {word!r} already has a different vector on {before}.")
        if len(words) == 1:
            return self._vectors[words[0]]
        return np.stack([self._vectors[word] for word in words]).mean(axis=0, dtype=np.float64).astype(np.float32)

    def _first(self, spellings: Iterable[str]) -> str | None:
        return next((spelling for spelling in spellings if spelling in self._vectors), None)


def _missing(file: Path, labels: Sequence[str], entries: _Entries) -> dict[str, list[str]]:
    """Words of the file spelled similarly to missing labels, or to missing words in them."""
    if not labels:
        return {}
    spellings = {
        label: [label.lower(), *(word.lower() for word in _words(label) if not entries.has(word))]
        for label in labels[:SUGGESTED]
    }
    near = near_spellings(spellings, _decode_words(file))
    return {label: near.get(label, []) for label in labels}


def _decode_words(file: Path) -> Iterator[str]:
    """All words of a file that are valid UTF-8, with a warning at the first that is not."""
    warned = False
    for line, word, _ in _rows(file):
        try:
            yield word.decode()
        except UnicodeDecodeError:
            if not warned:
                shown = word.decode("cp1252", "replace")
                message = "%s: not in UTF-8 (in Windows-1252 it is %r). Words with such letters are not found."
                log.warning(message, _where(file, line), shown)
            warned = True


def _parse(file: Path, line: int, word: bytes, numbers: bytes) -> np.ndarray:
    try:
        if _kind(file) in BINARY_SUFFIXES:
            vector = np.frombuffer(numbers, "<f4").astype(np.float32)
        elif b"_" in numbers:
            raise ValueError(f"could not convert string to float: {numbers.decode(errors='replace')!r}")
        else:
            with np.errstate(over="ignore"):  # numbers that are too large become infinite, and are refused below
                vector = np.array(numbers.split(), np.float32)
    except ValueError as error:
        raise RequestError(f"{_where(file, line)}: not a number ({error}).") from error
    if _kind(file) in BINARY_SUFFIXES and not _is_plausible(vector) and _is_plausible(vector.byteswap()):
        raise RequestError(
            f"{_where(file, line)}: these numbers make sense in big-endian byte order only; write them as <f4."
        )
    check_finite(vector, f"{_where(file, line)}: the vector of {_printable(word)}")
    return vector


def _is_plausible(vector: np.ndarray) -> bool:
    """Whether the size of the largest number is plausible."""
    largest = np.abs(vector).max(initial=0)
    return bool(largest == 0 or SMALLEST <= largest <= LARGEST)


def _rows(file: Path) -> Iterator[Row]:
    """The rows of a file of any format, all of the same length."""
    try:
        with open_unpacked(file) as stream:
            rows = (_binary_rows if _kind(file) in BINARY_SUFFIXES else _text_rows)(file, stream)
            for number, row in enumerate(rows):
                if number % ROWS_AT_ONCE == 0:
                    check_unpacked(file, stream.tell())
                yield row
    except (EOFError, zlib.error) as error:
        raise RequestError(f"{file}: this file is damaged or truncated ({error}); download it again.") from error
    except OSError as error:
        raise RequestError(f"{file}: the word vectors cannot be read ({cause(error)}).") from error


def _text_rows(file: Path, stream: io.BufferedReader) -> Iterator[Row]:
    if (encoding := encoding_of(stream)) == "utf-16":
        raise RequestError(f"{file}: these word vectors are in UTF-16; save them in UTF-8.")
    stream.read(3 if encoding == "utf-8-sig" else 0)
    lines = _lines(file, stream)
    header = _header(first := next(lines, b""))
    count, dim = header or (None, len(first.split()) - 1)
    if dim < 1:
        raise RequestError(f"{file}, line 1: no word followed by numbers; is this a file of word vectors?")
    if not header and not all(map(_is_number, first.split()[1:])):
        raise RequestError(
            f"{file}, line 1: the first word is not followed by numbers only. This line sets the dimension; "
            "if its word has spaces, move another line to the top."
        )
    begin = 2 if header else 1
    line, ended = begin - 1, True
    for line, text in enumerate(lines if header else itertools.chain([first], lines), begin):
        ended = text.endswith(b"\n")
        text = text.rstrip()
        if not text:
            raise RequestError(f"{_where(file, line)}: an empty line; each line holds a word and {dim} numbers.")
        if text.count(b" ") == dim and b"  " not in text:
            word, _, numbers = text.partition(b" ")
        else:  # a few published words contain spaces
            fields = text.split()
            length = len(fields) - 1
            if length < dim or (length > dim and _is_number(fields[-dim - 1])):
                raise RequestError(
                    _ragged(file, line, length, f"the header says {dim}" if header else f"line 1 has {dim}", ended)
                )
            word, numbers = b" ".join(fields[:-dim]), b" ".join(fields[-dim:])
        yield line, word, numbers
    if count is not None and line - 1 != count:
        raise RequestError(
            f"{file}: its header (line 1) says {count} rows, but there are {line - 1}; "
            "the file is truncated, or its header is wrong."
        )
    if not ended:
        raise RequestError(
            f"{_where(file, line)}: the last line does not end in a newline, so its last number may have lost digits. "
            "Download the file again, or end the line if it is complete."
        )


def _lines(file: Path, stream: io.BufferedReader) -> Iterator[bytes]:
    number = 0
    while line := stream.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise RequestError(f"{_where(file, number)}: longer than {LONGEST_LINE:,} bytes; is this a text file?")
        yield line


def _header(line: bytes) -> tuple[int, int] | None:
    """Number of rows and dimension, if the line is a header."""
    match = HEADER.fullmatch(line)
    return (int(match[1]), int(match[2])) if match else None


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return b"_" not in text


def _ragged(file: Path, line: int, length: int, expected: str, ended: bool) -> str:
    numbers = counted(length, "number")
    message = f"{_where(file, line)}: {numbers}, but {expected}; all rows must have the same length."
    return (
        message
        if ended
        else f"{message} The line does not end in a newline: the file seems to be truncated. Download it again."
    )


def _binary_rows(file: Path, stream: io.BufferedReader) -> Iterator[Row]:
    header = _header(stream.readline(LONGEST_WORD))
    if header is None or not 1 <= header[1] <= LONGEST_LINE:
        raise RequestError(
            f"{file}: a binary word2vec file begins with its number of rows and their length; this one does not."
        )
    count, dim = header
    data, at, size = b"", 0, dim * 4
    for row in range(1, count + 1):
        while (space := data.find(b" ", at, at + LONGEST_WORD)) < 0 or len(data) < space + 1 + size:
            if space < 0 and len(data) - at >= LONGEST_WORD:
                raise RequestError(
                    f"{_where(file, row)}: no word; the header says rows of {dim} numbers, which is wrong."
                )
            more = stream.read(READ_AT_ONCE)
            if not more:
                raise RequestError(
                    f"{_where(file, row)}: the file ends here, but its header says {count} rows of {dim} numbers; "
                    "it is truncated, or its header is wrong."
                )
            data, at = data[at:] + more, 0
        yield row, data[at:space].lstrip(b"\n"), data[space + 1 : (at := space + 1 + size)]
    if (data[at:] + stream.read(1)).strip():
        raise RequestError(f"{file}: the file continues after the {count} rows of {dim} numbers that its header says.")


def _unit(file: Path) -> str:
    return "row" if _kind(file) in BINARY_SUFFIXES else "line"


def _where(file: Path, line: int) -> str:
    return f"{file}, {_unit(file)} {line}"


def _printable(word: bytes) -> str:
    return repr(word.decode(errors="replace"))
