from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageSet
from pipeline.data.splits import Split, SplitRule
from pipeline.data.targets import Pairs
from pipeline.features.extraction import Features


def pairs(labels: str, **columns) -> Pairs:
    paths = [f"{label}/{number}" for number, label in enumerate(labels)]
    images = ImageSet("pictures", paths, [Path(path) for path in paths], list(labels), **columns)
    return Pairs(Features(None, 3, images, paths), list(labels), np.zeros((len(labels), 2), np.float32))


def splitted(made: Pairs, rule: str, copies: list[int] | None = None, seed: int = 0) -> Split:
    numbers = np.arange(len(made.keys)) if copies is None else np.array(copies)
    found = split(made, SplitRule.parse(rule), numbers, seed)
    assert not set(numbers[found.train]) & set(numbers[found.validation])
    assert not set(found.train) & set(found.validation)
    return found


def test_rules_are_read() -> None:
    assert SplitRule.parse("random") == SplitRule.parse("random:0.2") == SplitRule("random", 0.2)
    assert str(SplitRule.parse("classes:0.25")) == "classes:0.25"
    assert str(SplitRule.parse("column")) == "column"
    for wrong in ("half", "random:0", "random:1", "random:x", "column:0.2", "group:-1", ""):
        with pytest.raises(RequestError, match="--split"):
            SplitRule.parse(wrong)


def test_random_holds_out_the_same_share_of_each_label() -> None:
    found = splitted(pairs("aaaaabbbbbccccc"), "random:0.2", seed=1)
    assert sorted([*found.train, *found.validation]) == list(range(15))
    assert [row // 5 for row in found.validation] == [0, 1, 2]


@pytest.mark.parametrize("rule", ["random:0.2", "classes:0.2", "group:0.2"])
def test_splits_are_seeded(rule: str) -> None:
    made = pairs("abcdefghij" * 5, groups=[str(number // 2) for number in range(50)])
    several = [splitted(made, rule, seed=seed).validation.tolist() for seed in (0, 0, 1)]
    assert several[0] == several[1] != several[2]
    assert len(several[0]) == 10


def test_copies_stay_on_one_side() -> None:
    copies = [number // 2 for number in range(40)]
    for seed in range(5):
        assert len(splitted(pairs("a" * 40), "random:0.25", copies, seed).validation) == 10


def test_a_label_of_one_image_changes_nothing_for_the_others() -> None:
    found = splitted(pairs("aaaaabbbbbcccccde"), "random:0.2", seed=1)
    assert {row // 5 for row in found.validation} >= {0, 1, 2}


def test_labels_that_do_not_repeat_are_split_plainly() -> None:
    found = splitted(pairs("abcde"), "random:0.2")
    assert (len(found.train), len(found.validation)) == (4, 1)


def test_groups_stay_whole_and_with_the_groups_of_their_copies() -> None:
    groups = [str(number // 4) for number in range(40)]
    copies = list(range(40))
    copies[3] = copies[4]  # groups 0 and 1 share an image
    for seed in range(8):
        found = splitted(pairs("a" * 40, groups=groups), "group:0.3", copies, seed)
        held_out = {groups[row] for row in found.validation}
        assert not held_out & {groups[row] for row in found.train}
        assert ("0" in held_out) == ("1" in held_out)
        assert 3 <= len(held_out) <= 4


def test_classes_are_held_out_whole_and_their_copies_left_out(caplog: pytest.LogCaptureFixture) -> None:
    made = pairs("aaabbbcccdddeee")
    copies = list(range(15))
    copies[0] = copies[3] = copies[6] = copies[9] = copies[12]  # one picture under every label
    found = splitted(made, "classes:0.4", copies)
    labels = np.array(made.keys)
    assert len(set(labels[found.validation])) == 2
    assert not set(labels[found.validation]) & set(labels[found.train])
    assert len(found.moved) == 2
    assert sorted([*found.train, *found.validation, *found.moved]) == list(range(15))
    assert "2 images that --split classes:0.4 would hold out have a copy" in caplog.text
    assert "left out: " in caplog.text


def test_a_column_says_the_split_and_copies_are_moved(caplog: pytest.LogCaptureFixture) -> None:
    splits = ["train", "val", "Training", "test", "validation", "train"]
    found = splitted(pairs("aabbcc", splits=splits), "column", [0, 0, 2, 3, 4, 5])
    assert found.train.tolist() == [0, 1, 2, 5]
    assert found.validation.tolist() == [3, 4]
    assert found.moved.tolist() == [1]
    assert "moved there: 'a/1'" in caplog.text


@pytest.mark.parametrize(
    ("made", "rule", "message"),
    [
        (pairs("a"), "random", "at least two different images"),
        (pairs("aa"), "classes", "at least two labels"),
        (pairs("ab"), "group", "column 'group'"),
        (pairs("ab", groups=["x", None]), "group", "column 'group' for every image"),
        (pairs("ab", groups=["x", "x"]), "group", "at least two groups"),
        (pairs("ab"), "column", "column 'split'"),
        (pairs("ab", splits=["train", "later"]), "column", "split of 'b/1' is 'later'"),
        (pairs("ab", splits=["train", "train"]), "column", "leaves no image to hold out"),
        (pairs("ab", splits=["val", "val"]), "column", "leaves no image to learn from"),
    ],
)
def test_impossible_splits_are_refused(made: Pairs, rule: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        splitted(made, rule)


def test_copies_alone_cannot_be_split() -> None:
    with pytest.raises(RequestError, match="at least two different images"):
        splitted(pairs("aa"), "random", [7, 7])
