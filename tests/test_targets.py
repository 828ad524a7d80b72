from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RequestError
from pipeline.features import Features
from pipeline.targets import Pairs, pair, read_targets, split


def table(folder: Path, text: str, name: str = "targets.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def features(*paths: str, digests: list[str] | None = None) -> Features:
    labels = [path.rpartition("/")[0] for path in paths]
    return Features(store=None, dim=3, paths=list(paths), labels=labels, digests=digests or list(paths))


@pytest.mark.parametrize(
    "text", ["cat,1,2\ndog,3,4\n", "label,0,1\ncat,1,2\ndog,3,4\n", "\ufeffpath,x,y\ncat,1,2\ndog,3,4"]
)
def test_tables_are_read_with_and_without_header(tmp_path: Path, text: str) -> None:
    found = read_targets(table(tmp_path, text))
    assert found.rows == {"cat": 0, "dog": 1}
    assert found.vectors.dtype == np.float32
    assert found.vectors.tolist() == [[1, 2], [3, 4]]


def test_tabs_separate_tsv(tmp_path: Path) -> None:
    assert read_targets(table(tmp_path, "a b\t1\t2\n", "t.tsv")).rows == {"a b": 0}


def test_equal_rows_for_one_key_are_fine(tmp_path: Path) -> None:
    assert len(read_targets(table(tmp_path, "cat,1\ncat,1.0\ndog,2\n")).vectors) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no targets"),
        ("label,0,1\n", "holds no targets"),
        ("cat,1,2\ndog,3\n", "line 2: 1 numbers, but line 1 has 2"),
        ("cat,1,2\ndog,3,x\n", "line 2: not a number"),
        ("cat,1,nan\n", "line 1: the target of 'cat' holds NaN"),
        ("cat,1,2\ndog,1,inf\n", "line 2: the target of 'dog' holds NaN or infinite"),
        ("cat,1,2\ndog,3,4\ncat,1,3\n", "line 3: 'cat' has another vector already on line 1"),
        ("cat;1;2\n", "line 1: .*followed by no numbers; is the table separated by commas"),
    ],
)
def test_wrong_tables_are_refused_naming_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_targets(table(tmp_path, text))


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"\.csv or \.tsv"):
        read_targets(tmp_path / "targets.pkl")
    with pytest.raises(RequestError, match="No such file"):
        read_targets(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="cannot be read"):
        read_targets(tmp_path / "binary.csv")


def test_path_goes_before_label(tmp_path: Path) -> None:
    found = pair(features("cat/a.png", "cat/b.png"), read_targets(table(tmp_path, "cat,1,0\ncat/b.png,0,1\n")))
    assert found.keys == ["cat", "cat/b.png"]
    assert found.targets.tolist() == [[1, 0], [0, 1]]


def test_images_without_target_are_an_error_or_skipped(tmp_path: Path) -> None:
    targets = read_targets(table(tmp_path, "cat,1,0\nbird,1,1\n"))
    images = features("cat/a.png", "dog/a.png", "cat/b.png")
    with pytest.raises(RequestError, match=r"no target for 1 of 3 images: 'dog/a.png'.*--on-missing skip"):
        pair(images, targets)
    assert pair(images, targets, "skip").features.paths == ["cat/a.png", "cat/b.png"]
    with pytest.raises(RequestError, match="for none of the 1 images"):
        pair(features("dog/a.png"), targets, "skip")


def pairs(labels: str, digests: list[str] | None = None) -> Pairs:
    paths = [f"{label}/{number}" for number, label in enumerate(labels)]
    return Pairs(features(*paths, digests=digests), list(labels), np.zeros((len(labels), 2), np.float32))


def test_split_holds_out_the_same_share_of_each_label() -> None:
    train, validation = split(pairs("aaaaabbbbbccccc"), 0.2, seed=1)
    assert sorted([*train, *validation]) == list(range(15))
    assert [row // 5 for row in validation] == [0, 1, 2]


def test_split_is_seeded() -> None:
    several = [split(pairs("a" * 50), 0.2, seed)[1].tolist() for seed in (0, 0, 1)]
    assert several[0] == several[1] != several[2]
    assert len(several[0]) == 10


def test_copies_stay_on_one_side() -> None:
    digests = [f"{number // 2}" for number in range(40)]
    for seed in range(5):
        train, validation = split(pairs("a" * 40, digests), 0.25, seed)
        assert not {digests[row] for row in train} & {digests[row] for row in validation}
        assert len(validation) == 10


def test_labels_that_do_not_repeat_are_split_plainly() -> None:
    train, validation = split(pairs("abcde"), 0.2, seed=0)
    assert (len(train), len(validation)) == (4, 1)


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(RequestError, match="at least two images of different content"):
        split(pairs("a"), 0.2, seed=0)
    with pytest.raises(RequestError, match="at least two images of different content"):
        split(pairs("aa", ["same", "same"]), 0.2, seed=0)
