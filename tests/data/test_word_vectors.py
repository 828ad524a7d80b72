import gzip
import logging
import tracemalloc
import unicodedata
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
        ("New York", [3, 3, 1]),  # a phrase in the file
        ("cat Paris", [6, 6.5, 7]),
    ],
)
def test_labels_in_common_spellings_are_found(tmp_path: Path, label: str, expected: list[float]) -> None:
    file = tmp_path / "glove.txt"
    file.write_bytes(FORMATS["glove.txt"])
    assert read_word_vectors(file, [label])[0][label].tolist() == expected


def test_missing_words_come_with_similar_spellings(tmp_path: Path) -> None:
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
        ("glove.txt", b"a 1 2\ncat 1 nan\n", "line 2: the vector of 'cat' contains NaN"),
        ("glove.txt", b"cat 1 2\na 1 2\ncat 1 3\n", "line 3: 'cat' already has a different vector on line 1"),
        ("glove.txt", b"", "line 1: no word followed by numbers"),
        ("word2vec.txt", b"5 3\n" + GLOVE, r"line 1\) says 5 rows, but there are 8"),
        ("word2vec.txt", b"8 4\n" + GLOVE, "line 2: 3 numbers, but the header says 4"),
        ("glove.txt.gz", FORMATS["glove.txt.gz"][:-12], "truncated"),
        ("glove.txt.gz", GLOVE, "cannot be read"),
        ("glove.txt.gz", FORMATS["glove.txt.gz"][:20] + b"\xff\xff" + FORMATS["glove.txt.gz"][22:], "glove.txt.gz"),
        ("glove.txt", GLOVE + b"\n", "line 9: an empty line"),
        ("glove.txt", b"the 1 2 3\ncat 1  2\n", "line 2: "),
        ("w.bin", FORMATS["word2vec.bin"][:-5], "row 7: the file ends here, but its header says 7 rows of 3"),
        ("w.bin", FORMATS["word2vec.bin"].replace(b"7 3", b"9 3"), "row 8: the file ends here"),
        ("w.bin", FORMATS["word2vec.bin"].replace(b"7 3", b"6 3"), "continues after the 6 rows"),
        ("w.bin", b"2 1\n" + b"x" * 9000, "row 1: no word"),
        ("w.bin", b"\x00\x01", "begins with its number of rows .*; this one does not"),
        ("w.bin", FORMATS["word2vec.bin"] + b"cat " + bytes(12), "the file continues"),
    ],
)
def test_damaged_files_are_refused_with_the_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as raised:
        read_word_vectors(tmp_path / name, ["cat"])
    assert name in str(raised.value)


def test_equal_rows_for_one_word_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_bytes(b"cat 1 2\ndog 3 4\ncat 1.0 2\n")
    assert read_word_vectors(tmp_path / "g.txt", ["cat"])[0]["cat"].tolist() == [1, 2]


def test_only_needed_rows_are_kept_in_memory(tmp_path: Path) -> None:
    numbers = " ".join(["0.123456"] * 100)
    with open(tmp_path / "big.txt", "w") as file:
        file.writelines(f"word{number} {numbers}\n" for number in range(20_000))  # 18 MB
    tracemalloc.start()
    found, missing = read_word_vectors(tmp_path / "big.txt", ["word7", "word19999"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(found), missing) == (2, {})
    assert peak < 2**20


def read(folder: Path, content: str | bytes, *labels: str, name: str = "w.txt") -> dict[str, list[float]]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return {label: vector.tolist() for label, vector in read_word_vectors(folder / name, labels)[0].items()}


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (nfd("café"), [7]),
        (nfd("Vögel"), [8]),
        (nfd("Crème_Brûlée"), [10]),
        ("बिल्ली_घर", [2]),
        ("बिल्ली", [1]),
        ("गाय", None),  # its letters have vectors, but the word has none
        ("ไก่", None),
        ("क्\u200dषण", [20]),
        ("001.cat", [1]),
        ("cat_07", [1]),
        ("12.Sea-Lion.3", [6]),
        ("001.new_york", [30]),
        ("boeing_747", [40]),
        ("747", [50]),
        ("001", None),
    ],
)
def test_words_keep_their_marks_and_lose_their_running_numbers(
    tmp_path: Path, label: str, expected: list[float] | None
) -> None:
    words = {"cafe": 5, "café": 7, "vo": 3, "gel": 0, "vögel": 8, nfd("crème"): 8, "brûlée": 12, "बिल्ली": 1, "घर": 3}
    words |= {"ग": 1, "य": 2, "ก": 1, "ไ": 1, "क्\u200dषण": 20, "क्": 1, "षण": 2, "cat": 1, "sea": 4, "lion": 8}
    words |= {"new_york": 30, "new": 0, "york": 0, "boeing_747": 40, "boeing": 1, "747": 50}
    text = "".join(f"{word} {number}\n" for word, number in words.items())
    assert read(tmp_path, text, label) == ({} if expected is None else {label: expected})


def test_labels_in_another_spelling_are_all_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    labels = [
        "cat",
        nfd("café"),
        "Dog",
        "001.cat",
        "sea_lion",
        "golden retriever",
        *(f"CAT{number}" for number in range(9)),
    ]
    text = "cat 1\ncafé 2\ndog 3\nsea 4\nlion 5\ngolden_retriever 6\n" + "".join(f"cat{n} 7\n" for n in range(9))
    assert len(read(tmp_path, text, *labels)) == len(labels)
    listed = (
        "'Dog' by 'dog'; '001.cat' by 'cat'; 'sea_lion' by 'sea' and 'lion'; 'golden retriever' by 'golden_retriever'"
    )
    assert f"13 labels in another spelling: {listed}; 'CAT0' by 'cat0'" in caplog.text
    assert "'CAT8' by 'cat8'." in caplog.text
    assert "caf" not in caplog.text


def test_a_duplicate_word_is_refused_if_a_label_needs_it(tmp_path: Path) -> None:
    text = "Cat 4\ncat 1\ncat 2\nsea 1\nsea 2\nlion 3\nsea_lion 5\n"
    assert read(tmp_path, text, "Cat", "sea_lion") == {"Cat": [4], "sea_lion": [5]}
    for label, line in [("cat", 3), ("Sea", 5), ("lion_sea", 5)]:
        with pytest.raises(RequestError, match=f"line {line}: '(cat|sea)' already has a different vector on line"):
            read(tmp_path, text, label)
    with pytest.raises(RequestError, match="line 2: 'café' already has a different vector on line 1"):
        read(tmp_path, f"{nfd('café')} 1\ncafé 2\n", "café")


def test_encodings_are_supported_or_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "cat 1\ncafé 2\n"
    for name, content in [("w.txt", text.encode("utf-8-sig")), ("w.txt.gz", gzip.compress(text.encode("utf-8-sig")))]:
        assert read(tmp_path, content, "cat", "café", name=name) == {"cat": [1], "café": [2]}
    assert read(tmp_path, b"\xef\xbb\xbf2 1\n" + text.encode(), "cat") == {"cat": [1]}
    for encoding in ("utf-16", "utf-16-be", "utf-16-le"):
        content = ("\ufeff" if encoding != "utf-16" else "").encode(encoding) + text.encode(encoding)
        with pytest.raises(RequestError, match="in UTF-16; save them in UTF-8"):
            read(tmp_path, content, "cat")
    assert caplog.text == ""
    assert read(tmp_path, text.encode("cp1252"), "cat", "café") == {"cat": [1]}
    assert "w.txt, line 2: not in UTF-8 (in Windows-1252 it is 'café')" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.txt", b". . . 1 2\ncat 1 0\n", "line 1: the first word is not followed by numbers only"),
        ("w.txt", b"New York 1 2\ncat 1 0\n", "line 1: the first word is not followed by numbers only"),
        ("w.txt", b"the 1 2\ncat 1_5 2\n", "line 2: not a number"),
        (
            "w.txt",
            b"the 1 2\ncat 3e38 2\n",
            "line 2: the vector of 'cat' contains NaN or infinite values, or numbers above",
        ),
        ("w.bin", b"1 2\ncat " + np.array([1, 0], ">f4").tobytes(), "row 1: .*big-endian byte order"),
        ("w.bin", b"1 9\ncat " + np.linspace(-1, 1, 9).astype(">f4").tobytes(), "row 1: .*big-endian byte order"),
        ("w.bin", b"1 1\ncat " + np.array([np.finfo(np.float32).max], "<f4").tobytes(), "row 1: .*numbers above"),
    ],
)
def test_implausible_numbers_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(tmp_path, content, "cat", name=name)
