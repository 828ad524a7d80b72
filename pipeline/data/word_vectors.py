"""Word vectors as they are published (GloVe text, word2vec text and binary, fastText), matched to labels.

A file is read from front to back, and only the rows of words that a label may stand for are held. Formats:
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
from pipeline.core.wording import counted
from pipeline.data.spelling import near_spellings
from pipeline.data.tables import LARGEST, check_finite
from pipeline.data.text_files import LONGEST_LINE, encoding_of, nfc, open_unpacked

log = logging.getLogger(__name__)

TEXT_SUFFIXES, BINARY_SUFFIXES = (".txt", ".vec", ".glove"), (".bin",)
LONGEST_WORD = 2000  # bytes; a binary file with a longer one is not a word2vec file, or its header is wrong
HEADER = re.compile(rb"\s*(\d{1,12})\s+(\d{1,12})\s*")
JOINERS = "\u200c\u200d"  # invisible characters within words of Persian and of Indian languages
SMALLEST = 1e-30  # of the largest number of a vector: smaller ones are read in the wrong byte order
READ_AT_ONCE = 2**22
ROWS_AT_ONCE = 4096  # between two looks at how much was unpacked
NAMED = 5  # how many missing labels get near spellings

Row = tuple[int, bytes, bytes]  # number of the line (text) or row (binary), word, its numbers as they stand there


def is_word_vectors(file: Path) -> bool:
    """Whether a file's name ends like one of word vectors: .txt .vec .glove .bin, gzipped or not."""
    return _kind(file) in TEXT_SUFFIXES + BINARY_SUFFIXES


def _kind(file: Path) -> str:
    return (Path(file.stem) if file.suffix.lower() == ".gz" else file).suffix.lower()


def read_word_vectors(file: Path, labels: Iterable[str]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Find the vectors of labels.

    A label stands for the entry of just its spelling; or in lower case; or with its words joined by "_", "-" or
    nothing, as phrases are published; or else for the mean of its words, each as it stands, in lower case or
    capitalised. Words end at anything that is not a letter, mark or digit, and where camelCase has a capital; numbers
    beside other words ("001.cat") are left out. Labels that an entry of another spelling or a mean stands for are
    listed.

    Args:
        file: The word vectors; see `is_word_vectors`.
        labels: The labels.

    Returns:
        Label -> vector, shape (D,), float32, for those that were found; and label -> words of the file with a similar
        spelling, for those that were not. Words are looked for on behalf of the first NAMED labels only.

    Raises:
        RequestError: The file cannot be read, is cut short, has rows of different length or another number of them than
            its header says, or gives a word two different vectors. The message names the line.
    """
    labels = dict.fromkeys(labels)
    entries = _Entries(file, {spelling for label in labels for spelling in _all_spellings(label)})
    parts = {label: entries.parts_of(label) for label in labels}
    vectors = {label: entries.mean(words) for label, words in parts.items() if words}
    means = sum(len(words) > 1 for words in parts.values())
    of_means = f" ({means} as the mean of several words)" if means else ""
    log.info("%s: %d of %s found%s.", file, len(vectors), counted(len(labels), "label"), of_means)
    if other := [label for label in vectors if parts[label] != [nfc(label)]]:
        listed = "; ".join(f"{label!r} by {' and '.join(map(repr, parts[label]))}" for label in other)
        log.info("%s in another spelling: %s.", counted(len(other), "label"), listed)
    return vectors, _missing(file, [label for label in labels if label not in vectors], entries)


def read_vocabulary(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """All words of a file of word vectors, one by one.

    Args:
        file: The word vectors; see `is_word_vectors`.

    Yields:
        A word and its vector, shape (D,), float32.

    Raises:
        RequestError: As `read_word_vectors`.
    """
    if not is_word_vectors(file):
        raise RequestError(
            f"{file}: a vocabulary is a file of word vectors (.txt, .vec, .glove, .bin, gzipped or not)."
        )
    for line, word, numbers in _rows(file):
        yield nfc(word.decode(errors="backslashreplace")), _parsed(file, line, word, numbers)


def _phrases(label: str) -> list[str]:
    """Spellings of a label as one entry, the likeliest first."""
    joined = [
        separator.join(words) for words in (_split(label), _words(label)) for separator in ("_", "-", " ", "") if words
    ]
    return list(dict.fromkeys([nfc(label), nfc(label).lower(), *joined, *(phrase.lower() for phrase in joined)]))


def _split(label: str) -> list[str]:
    """The words and numbers of a label."""
    text = nfc(label)
    spaced = "".join(
        f" {this}" if this.isupper() and before.islower() else this if _is_in_word(this) else " "
        for before, this in zip(" " + text, text, strict=False)
    )
    return spaced.split()


def _is_in_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or character in JOINERS


def _words(label: str) -> list[str]:
    """The words of a label, without numbers where there is anything else."""
    parts = _split(label)
    return [part for part in parts if not part.isdecimal()] or parts


def _forms(word: str) -> list[str]:
    return list(dict.fromkeys([word, word.lower(), word.capitalize(), word.upper()]))


def _all_spellings(label: str) -> list[str]:
    return [*_phrases(label), *(form for word in _words(label) for form in _forms(word))]


class _Entries:
    """The entries of a file that labels may stand for.

    Args:
        file: The word vectors, read as a whole.
        spellings: The words to keep, in NFC.
    """

    def __init__(self, file: Path, spellings: Iterable[str]) -> None:
        self._file = file
        self._found: dict[str, np.ndarray] = {}
        self._lines: dict[str, int] = {}
        self._doubled: dict[str, int] = {}  # on which line a word has another vector
        sought = {
            form.encode("utf-8", "surrogateescape"): spelling
            for spelling in spellings
            for form in (unicodedata.normalize("NFD", spelling), spelling)
        }
        for line, word, numbers in _rows(file):
            if (spelling := sought.get(word)) is not None:
                vector = _parsed(file, line, word, numbers)
                if not np.array_equal(self._found.setdefault(spelling, vector), vector):
                    self._doubled.setdefault(spelling, line)
                self._lines.setdefault(spelling, line)

    def parts_of(self, label: str) -> list[str]:
        """The entry that is the label, or those of its words; none where one is missing."""
        if entry := self._first(_phrases(label)):
            return [entry]
        words = [self._first(_forms(word)) for word in _words(label)]
        return [word for word in words if word] if all(words) else []

    def has(self, word: str) -> bool:
        """Whether there is an entry for a word."""
        return self._first(_forms(word)) is not None

    def mean(self, words: Sequence[str]) -> np.ndarray:
        """The mean vector of some entries."""
        for word in words:
            if word in self._doubled:
                where = _where(self._file, self._doubled[word])
                before = f"{_unit(self._file)} {self._lines[word]}"
                raise RequestError(f"{where}: {word!r} has another vector already on {before}.")
        if len(words) == 1:
            return self._found[words[0]]
        return np.stack([self._found[word] for word in words]).mean(axis=0, dtype=np.float64).astype(np.float32)

    def _first(self, spellings: Iterable[str]) -> str | None:
        return next((spelling for spelling in spellings if spelling in self._found), None)


def _missing(file: Path, labels: Sequence[str], entries: _Entries) -> dict[str, list[str]]:
    """Words of the file that are spelled like missing labels, or like those of their words that are missing."""
    if not labels:
        return {}
    spellings = {
        label: [label.lower(), *(word.lower() for word in _words(label) if not entries.has(word))]
        for label in labels[:NAMED]
    }
    near = near_spellings(spellings, _decoded(file))
    return {label: near.get(label, []) for label in labels}


def _decoded(file: Path) -> Iterator[str]:
    """All words of a file; a warning says where one is not in UTF-8."""
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


def _parsed(file: Path, line: int, word: bytes, numbers: bytes) -> np.ndarray:
    try:
        if _kind(file) in BINARY_SUFFIXES:
            vector = np.frombuffer(numbers, "<f4").astype(np.float32)
        elif b"_" in numbers:
            raise ValueError(f"could not convert string to float: {numbers.decode(errors='replace')!r}")
        else:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
                vector = np.array(numbers.split(), np.float32)
    except ValueError as error:
        raise RequestError(f"{_where(file, line)}: not a number ({error}).") from error
    if _kind(file) in BINARY_SUFFIXES and not _is_plausible(vector) and _is_plausible(vector.byteswap()):
        raise RequestError(
            f"{_where(file, line)}: these numbers make sense in big-endian byte order only; write them as <f4."
        )
    check_finite(vector, f"{_where(file, line)}: the vector of {_shown(word)}")
    return vector


def _is_plausible(vector: np.ndarray) -> bool:
    """Whether numbers are as large as those of a vector may be."""
    largest = np.abs(vector).max(initial=0)
    return bool(largest == 0 or SMALLEST <= largest <= LARGEST)


def _rows(file: Path) -> Iterator[Row]:
    """The rows of a file of any format, all of the same length."""
    try:
        with open_unpacked(file) as opened:
            rows = (_binary_rows if _kind(file) in BINARY_SUFFIXES else _text_rows)(file, opened)
            for number, row in enumerate(rows):
                if number % ROWS_AT_ONCE == 0:
                    check_unpacked(file, opened.tell())
                yield row
    except (EOFError, zlib.error) as error:
        raise RequestError(f"{file}: this file is damaged or cut short ({error}); download it again.") from error
    except OSError as error:
        raise RequestError(f"{file}: the word vectors cannot be read ({cause(error)}).") from error


def _text_rows(file: Path, opened: io.BufferedReader) -> Iterator[Row]:
    if (encoding := encoding_of(opened)) == "utf-16":
        raise RequestError(f"{file}: these word vectors are in UTF-16; save them in UTF-8.")
    opened.read(3 if encoding == "utf-8-sig" else 0)
    lines = _lines(file, opened)
    header = _header(first := next(lines, b""))
    count, dim = header or (None, len(first.split()) - 1)
    if dim < 1:
        raise RequestError(f"{file}, line 1: no word with numbers after it; is this a file of word vectors?")
    if not header and not all(map(_is_number, first.split()[1:])):
        raise RequestError(
            f"{file}, line 1: not only numbers after the first word. The first line says how many there are; "
            "if its word has spaces, put another line first."
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
        else:  # a few published words have spaces in them
            fields = text.split()
            given = len(fields) - 1
            if given < dim or (given > dim and _is_number(fields[-dim - 1])):
                raise RequestError(
                    _ragged(file, line, given, f"the header says {dim}" if header else f"line 1 has {dim}", ended)
                )
            word, numbers = b" ".join(fields[:-dim]), b" ".join(fields[-dim:])
        yield line, word, numbers
    if count is not None and line - 1 != count:
        raise RequestError(
            f"{file}: its header (line 1) says {count} rows, but line {line} is the last, which makes {line - 1}; "
            "the file is cut short, or its header is wrong."
        )
    if not ended:
        raise RequestError(
            f"{_where(file, line)}: the last line does not end in a newline, so its last number may have lost digits. "
            "Download the file again, or end the line if it is complete."
        )


def _lines(file: Path, opened: io.BufferedReader) -> Iterator[bytes]:
    number = 0
    while line := opened.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise RequestError(f"{_where(file, number)}: longer than {LONGEST_LINE:,} bytes; is this a text file?")
        yield line


def _header(line: bytes) -> tuple[int, int] | None:
    """Rows and dimension, where a first line says so."""
    found = HEADER.fullmatch(line)
    return (int(found[1]), int(found[2])) if found else None


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return b"_" not in text


def _ragged(file: Path, line: int, given: int, known: str, ended: bool) -> str:
    numbers = counted(given, "number")
    message = f"{_where(file, line)}: {numbers}, but {known}; all rows must have the same length."
    return (
        message
        if ended
        else f"{message} The line does not end in a newline: the file seems to be cut short. Download it again."
    )


def _binary_rows(file: Path, opened: io.BufferedReader) -> Iterator[Row]:
    header = _header(opened.readline(LONGEST_WORD))
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
            more = opened.read(READ_AT_ONCE)
            if not more:
                raise RequestError(
                    f"{_where(file, row)}: the file ends here, but its header says {count} rows of {dim} numbers; "
                    "it is cut short, or its header is wrong."
                )
            data, at = data[at:] + more, 0
        yield row, data[at:space].lstrip(b"\n"), data[space + 1 : (at := space + 1 + size)]
    if (data[at:] + opened.read(1)).strip():
        raise RequestError(f"{file}: more follows after the {count} rows of {dim} numbers that its header says.")


def _unit(file: Path) -> str:
    return "row" if _kind(file) in BINARY_SUFFIXES else "line"


def _where(file: Path, line: int) -> str:
    return f"{file}, {_unit(file)} {line}"


def _shown(word: bytes) -> str:
    return repr(word.decode(errors="replace"))
