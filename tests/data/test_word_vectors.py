import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.data.word_vectors import is_word_vectors, read_word_vectors

WORDS = {
    "the": [1, 2, 3],
    "golden": [2, 0, 0],
    "retriever": [0, 4, 0],
    "cat": [5, 5, 5],
    "Paris": [7, 8, 9],
    ". . .": [1, 1, 1],
    "new_york": [3, 3, 1],
    "é": [0.5, 0.25, 0.125],
}


def text(words: dict[str, list[float]], header: bool) -> bytes:
    rows = [f"{len(words)} 3\n"] if header else []
    return "".join(rows + [f"{word} {' '.join(map(str, row))}\n" for word, row in words.items()]).encode()


def binary(words: dict[str, list[float]], newline: bytes = b"\n") -> bytes:
    rows = [word.encode() + b" " + np.array(row, "<f4").tobytes() + newline for word, row in words.items()]
    return f"{len(words)} 3\n".encode() + b"".join(rows)


SINGLE = {word: row for word, row in WORDS.items() if " " not in word}
FORMATS = {
    "glove.txt": text(WORDS, header=False),
    "glove.txt.gz": gzip.compress(text(WORDS, header=False), mtime=0),
    "word2vec.txt": text(WORDS, header=True),
    "fasttext.vec": text(WORDS, header=True).replace(b"\n", b" \n"),  # fastText ends its rows with a space
    "word2vec.bin": binary(SINGLE),
    "gensim.bin.gz": gzip.compress(binary(SINGLE, newline=b""), mtime=0),
}


@pytest.mark.parametrize("name", FORMATS)
def test_published_formats_are_read(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(FORMATS[name])
    assert is_word_vectors(file)
    found, missing = read_word_vectors(file, ["cat", "é", "the"])
    assert missing == {}
    assert {label: vector.tolist() for label, vector in found.items()} == {label: WORDS[label] for label in found}
    assert all(vector.dtype == np.float32 for vector in found.values())


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("golden_retriever", [1, 2, 0]),
        ("Golden Retriever", [1, 2, 0]),
        ("golden-retriever", [1, 2, 0]),
        ("GoldenRetriever", [1, 2, 0]),
        ("GOLDEN.RETRIEVER", [1, 2, 0]),
        ("paris", [7, 8, 9]),
        ("Cat", [5, 5, 5]),
        ("New York", [3, 3, 1]),  # a phrase that the file has
        ("cat Paris", [6, 6.5, 7]),
    ],
)
def test_labels_in_usual_spellings_are_found(tmp_path: Path, label: str, expected: list[float]) -> None:
    file = tmp_path / "glove.txt"
    file.write_bytes(FORMATS["glove.txt"])
    assert read_word_vectors(file, [label])[0][label].tolist() == expected


def test_what_is_missing_comes_with_its_nearest_spellings(tmp_path: Path) -> None:
    file = tmp_path / "glove.txt"
    file.write_bytes(FORMATS["glove.txt"])
    found, missing = read_word_vectors(file, ["cat", "golden_retreiver", "retriver", "__"])
    assert set(found) == {"cat"}
    assert set(missing) == {"golden_retreiver", "retriver", "__"}
    assert missing["retriver"][0] == "retriever"
    assert missing["__"] == []


GLOVE = FORMATS["glove.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("glove.txt", GLOVE[: len(GLOVE) // 2], r"glove\.txt, line \d: "),
        ("glove.txt", GLOVE[:-1], "line 8: the last line does not end in a newline"),
        ("glove.txt", b"a 1 2 3\nb 1 2\n", "line 2: 2 numbers, but line 1 has 3"),
        ("glove.txt", b"a 1 2 3\nb 1 2 3 4\n", "line 2: 4 numbers, but line 1 has 3"),
        ("glove.txt", b"a 1 2\ncat 1 x\n", "line 2: not a number"),
        ("glove.txt", b"a 1 2\ncat 1 nan\n", "line 2: the vector of 'cat' holds NaN"),
        ("glove.txt", b"cat 1 2\na 1 2\ncat 1 3\n", "line 3: 'cat' has another vector already on line 1"),
        ("glove.txt", b"", "line 1: no word with numbers"),
        ("word2vec.txt", b"5 3\n" + GLOVE, r"line 1\) says 5 rows, but line 9 is the last, which makes 8"),
        ("word2vec.txt", b"8 4\n" + GLOVE, "line 2: 3 numbers, but line 2 has 4"),
        ("glove.txt.gz", FORMATS["glove.txt.gz"][:-12], "cut short"),
        ("glove.txt.gz", GLOVE, "cannot be read"),
        ("glove.txt.gz", FORMATS["glove.txt.gz"][:20] + b"\xff\xff" + FORMATS["glove.txt.gz"][22:], "glove.txt.gz"),
        ("glove.txt", GLOVE + b"\n", "line 9: an empty line"),
        ("glove.txt", b"the 1 2 3\ncat 1  2\n", "line 2: "),
        ("w.bin", FORMATS["word2vec.bin"][:-5], "row 7: the file ends here, but its header says 7 rows of 3"),
        ("w.bin", FORMATS["word2vec.bin"].replace(b"7 3", b"9 3"), "row 8: the file ends here"),
        ("w.bin", FORMATS["word2vec.bin"].replace(b"7 3", b"6 3"), "more follows after the 6 rows"),
        ("w.bin", b"2 1\n" + b"x" * 9000, "row 1: no word"),
        ("w.bin", b"\x00\x01", "begins with its number of rows .*; this one does not"),
        ("w.bin", FORMATS["word2vec.bin"] + b"cat " + bytes(12), "more follows"),
    ],
)
def test_damaged_files_are_refused_naming_the_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as raised:
        read_word_vectors(tmp_path / name, ["cat"])
    assert name in str(raised.value)


def test_equal_rows_for_one_word_are_fine(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_bytes(b"cat 1 2\ndog 3 4\ncat 1.0 2\n")
    assert read_word_vectors(tmp_path / "g.txt", ["cat"])[0]["cat"].tolist() == [1, 2]


def test_only_wanted_rows_are_held(tmp_path: Path) -> None:
    numbers = " ".join(["0.123456"] * 100)
    with open(tmp_path / "big.txt", "w") as file:
        file.writelines(f"word{number} {numbers}\n" for number in range(20_000))  # 18 MB
    tracemalloc.start()
    found, missing = read_word_vectors(tmp_path / "big.txt", ["word7", "word19999"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(found), missing) == (2, {})
    assert peak < 2**20
