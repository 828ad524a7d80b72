"""Word vectors as they are published (GloVe text, word2vec text and binary, fastText), matched to labels.

A file is read from front to back, and only the rows of words that a label may stand for are held. Formats:
https://nlp.stanford.edu/projects/glove, https://code.google.com/archive/p/word2vec, https://fasttext.cc.
"""

import gzip
import itertools
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, cast

import numpy as np

from pipeline.core.errors import RequestError, cause
from pipeline.core.wording import counted
from pipeline.data.spelling import near_spellings

log = logging.getLogger(__name__)

TEXT_SUFFIXES, BINARY_SUFFIXES = (".txt", ".vec", ".glove"), (".bin",)
LONGEST_WORD = 2000  # bytes; a binary file with a longer one is not a word2vec file, or its header is wrong
READ_AT_ONCE = 2**22
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
    capitalised. Words end at anything that is not a letter or digit, and where camelCase has a capital.

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
    wanted = {spelling.encode() for label in labels for spelling in _all_spellings(label)}
    found = _find(file, wanted)
    entries = {label: vector for label in labels if (vector := _entry(label, found)) is not None}
    means = {label: vector for label in labels if label not in entries and (vector := _mean(label, found)) is not None}
    log.info(
        "%s: %s found as an entry, %d as a mean of words%s.",
        file,
        counted(len(entries), "label"),
        len(means),
        f", such as {next(iter(means))!r}" if means else "",
    )
    either = entries | means
    vectors = {label: either[label] for label in labels if label in either}
    return vectors, _missing(file, [label for label in labels if label not in vectors], found)


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
        yield word.decode(errors="backslashreplace"), _parsed(file, line, word, numbers)


def _phrases(label: str) -> list[str]:
    """Spellings of a label as one entry, the likeliest first."""
    words = _words(label)
    joined = [separator.join(words) for separator in ("_", "-", " ", "")]
    return list(dict.fromkeys([label, label.lower(), *joined, *(phrase.lower() for phrase in joined)]))


def _words(label: str) -> list[str]:
    """The words of a label."""
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label))


def _forms(word: str) -> list[str]:
    return list(dict.fromkeys([word, word.lower(), word.capitalize(), word.upper()]))


def _all_spellings(label: str) -> list[str]:
    return [*_phrases(label), *(form for word in _words(label) for form in _forms(word))]


def _entry(label: str, found: Mapping[bytes, np.ndarray]) -> np.ndarray | None:
    """The vector of the entry that is the label, in one of its spellings."""
    return next((found[phrase.encode()] for phrase in _phrases(label) if phrase.encode() in found), None)


def _mean(label: str, found: Mapping[bytes, np.ndarray]) -> np.ndarray | None:
    """The mean vector of a label's words, if all of them are there."""
    words = [vector for word in _words(label) if (vector := _word(word, found)) is not None]
    if not words or len(words) < len(_words(label)):
        return None
    return np.stack(words).mean(axis=0, dtype=np.float64).astype(np.float32)


def _word(word: str, found: Mapping[bytes, np.ndarray]) -> np.ndarray | None:
    return next((found[form.encode()] for form in _forms(word) if form.encode() in found), None)


def _missing(file: Path, labels: list[str], found: Mapping[bytes, np.ndarray]) -> dict[str, list[str]]:
    """Words of the file that are spelled like missing labels, or like those of their words that are missing."""
    if not labels:
        return {}
    spellings = {
        label: [label.lower(), *(word.lower() for word in _words(label) if _word(word, found) is None)]
        for label in labels[:NAMED]
    }
    words = (word.decode(errors="replace") for _, word, _ in _rows(file))
    near = near_spellings(spellings, words)
    return {label: near.get(label, []) for label in labels}


def _find(file: Path, wanted: set[bytes]) -> dict[bytes, np.ndarray]:
    """Read the whole file; keep the wanted words' vectors."""
    found: dict[bytes, np.ndarray] = {}
    lines: dict[bytes, int] = {}
    for line, word, numbers in _rows(file):
        if word in wanted:
            vector = _parsed(file, line, word, numbers)
            if word in found and not np.array_equal(found[word], vector):
                raise RequestError(
                    f"{_where(file, line)}: {_shown(word)} has another vector already on {_unit(file)} {lines[word]}."
                )
            found.setdefault(word, vector)
            lines.setdefault(word, line)
    return found


def _parsed(file: Path, line: int, word: bytes, numbers: bytes) -> np.ndarray:
    try:
        if _kind(file) in BINARY_SUFFIXES:
            vector = np.frombuffer(numbers, "<f4").astype(np.float32)
        else:
            vector = np.array(numbers.split(), np.float32)
    except ValueError as error:
        raise RequestError(f"{_where(file, line)}: not a number ({error}).") from error
    if not np.isfinite(vector).all():
        raise RequestError(f"{_where(file, line)}: the vector of {_shown(word)} holds NaN or infinite values.")
    return vector


def _rows(file: Path) -> Iterator[Row]:
    """The rows of a file of any format, all of the same length."""
    try:
        with gzip.open(file) if file.suffix.lower() == ".gz" else open(file, "rb") as opened:
            read = _binary_rows if _kind(file) in BINARY_SUFFIXES else _text_rows
            yield from read(file, cast(IO[bytes], opened))
    except (EOFError, zlib.error) as error:
        raise RequestError(f"{file}: this file is damaged or cut short ({error}); download it again.") from error
    except OSError as error:
        raise RequestError(f"{file}: the word vectors cannot be read ({cause(error)}).") from error


def _text_rows(file: Path, opened: IO[bytes]) -> Iterator[Row]:
    header = _header(first := opened.readline())
    count, dim = header or (None, len(first.split()) - 1)
    if dim < 1:
        raise RequestError(f"{file}, line 1: no word with numbers after it; is this a file of word vectors?")
    begin = 2 if header else 1
    line, ended = begin - 1, True
    for line, text in enumerate(opened if header else itertools.chain([first], opened), begin):
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
                raise RequestError(_ragged(file, line, given, dim, first=begin, ended=ended))
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


def _header(line: bytes) -> tuple[int, int] | None:
    """Rows and dimension, where a first line says so."""
    fields = line.split()
    return (int(fields[0]), int(fields[1])) if len(fields) == 2 and all(map(bytes.isdigit, fields)) else None


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _ragged(file: Path, line: int, given: int, dim: int, first: int, ended: bool) -> str:
    numbers = counted(given, "number")
    message = f"{_where(file, line)}: {numbers}, but line {first} has {dim}; all rows must have the same length."
    return (
        message
        if ended
        else f"{message} The line does not end in a newline: the file seems to be cut short. Download it again."
    )


def _binary_rows(file: Path, opened: IO[bytes]) -> Iterator[Row]:
    header = _header(opened.readline(LONGEST_WORD))
    if header is None or header[1] < 1:
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
