import dataclasses

import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.splits import Split, SplitRule, assign_folds, check_split_column, fold_images, split_images


def images_of(labels: str, **columns) -> ImageSet:
    """One image per label; a label is a letter."""
    paths = [f"{label}/{number}" for number, label in enumerate(labels)]
    return ImageSet("images", paths, [ImageRef(f"/{path}") for path in paths], list(labels), **columns)


def split(images: ImageSet, rule: str, duplicates: list[int] | None = None, seed: int = 0) -> Split:
    numbers = np.arange(len(images)) if duplicates is None else np.array(duplicates)
    parts = split_images(images, SplitRule.parse(rule), numbers, seed)
    assert not set(numbers[parts.train]) & set(numbers[parts.validation])
    assert not set(parts.train) & set(parts.validation)
    return parts


def test_rules_are_parsed() -> None:
    assert SplitRule.parse("random") == SplitRule("random")
    assert SplitRule.parse("random:0.2") == SplitRule("random", 0.2)
    assert SplitRule("random").share == 0.2
    assert str(SplitRule.parse("classes:0.25")) == "classes:0.25"
    assert str(SplitRule.parse("column")) == "column"
    for wrong in ("random:20", "group:1.5", "classes:-0.2", "random:1"):
        with pytest.raises(RequestError, match=r"names a share of .* between 0 and 1"):
            SplitRule.parse(wrong)
    for wrong in ("half", "random:0", "random:1", "random:x", "column:0.2", "group:-1", ""):
        with pytest.raises(RequestError, match="split"):
            SplitRule.parse(wrong)


def test_random_is_stratified_by_label() -> None:
    parts = split(images_of("aaaaabbbbbccccc"), "random:0.2", seed=1)
    assert sorted([*parts.train, *parts.validation]) == list(range(15))
    assert [row // 5 for row in parts.validation] == [0, 1, 2]


@pytest.mark.parametrize("rule", ["random:0.2", "classes:0.2", "group:0.2"])
def test_splits_are_seeded(rule: str) -> None:
    images = images_of("abcdefghij" * 5, groups=[str(number // 2) for number in range(50)])
    several = [split(images, rule, seed=seed).validation.tolist() for seed in (0, 0, 1)]
    assert several[0] == several[1] != several[2]
    assert len(several[0]) == 10


def test_near_duplicates_stay_on_one_side() -> None:
    duplicates = [number // 2 for number in range(40)]
    for seed in range(5):
        assert len(split(images_of("a" * 40), "random:0.25", duplicates, seed).validation) == 10


def test_a_label_with_one_image_does_not_affect_the_others() -> None:
    parts = split(images_of("aaaaabbbbbcccccde"), "random:0.2", seed=1)
    assert {row // 5 for row in parts.validation} >= {0, 1, 2}


def test_labels_that_do_not_repeat_are_split_at_random() -> None:
    parts = split(images_of("abcde"), "random:0.2")
    assert (len(parts.train), len(parts.validation)) == (4, 1)


def test_groups_stay_whole_and_with_the_groups_of_their_near_duplicates() -> None:
    groups = [str(number // 4) for number in range(40)]
    duplicates = list(range(40))
    duplicates[3] = duplicates[4]  # groups 0 and 1 share an image
    for seed in range(8):
        parts = split(images_of("a" * 40, groups=groups), "group:0.3", duplicates, seed)
        held_out = {groups[row] for row in parts.validation}
        assert not held_out & {groups[row] for row in parts.train}
        assert ("0" in held_out) == ("1" in held_out)
        assert 3 <= len(held_out) <= 4


def test_whole_classes_are_held_out_without_their_near_duplicates(caplog: pytest.LogCaptureFixture) -> None:
    images = images_of("aaabbbcccdddeee")
    duplicates = list(range(15))
    duplicates[0] = duplicates[3] = duplicates[6] = duplicates[9] = duplicates[12]  # one image under every label
    parts = split(images, "classes:0.4", duplicates)
    labels = np.array(images.labels)
    assert len(set(labels[parts.validation])) == 2
    assert not set(labels[parts.validation]) & set(labels[parts.train])
    assert len(parts.moved) == 2
    assert sorted([*parts.train, *parts.validation, *parts.moved]) == list(range(15))
    assert "The split classes:0.4 would hold out 2 images with a near-duplicate" in caplog.text
    assert "Left out: " in caplog.text


def test_a_column_defines_the_split_and_near_duplicates_are_moved(caplog: pytest.LogCaptureFixture) -> None:
    splits = ["train", "held-out", "Training", "test", "validation", "train"]
    parts = split(images_of("aabbcc", splits=splits), "column", [0, 0, 2, 3, 4, 5])
    assert parts.train.tolist() == [0, 1, 2, 5]
    assert parts.validation.tolist() == [3, 4]
    assert parts.moved.tolist() == [1]
    assert "Moved there: 'a/1'" in caplog.text


@pytest.mark.parametrize(
    ("images", "rule", "message"),
    [
        (images_of("a"), "random", "at least two different images"),
        (images_of("aa"), "classes", "at least two labels"),
        (images_of("ab"), "group", "column 'group'"),
        (images_of("ab", groups=["x", None]), "group", "column 'group' for all images"),
        (images_of("ab", groups=[" ", "x"]), "group", "column 'group' for all images"),
        (images_of("ab", groups=["x", "x"]), "group", "at least two groups"),
        (images_of("ab"), "column", "column 'split'"),
        (images_of("ab", splits=["train", "later"]), "column", "split of 'b/1' is 'later'"),
        (images_of("ab", splits=["train", "train"]), "column", "leaves no image to hold out"),
        (images_of("ab", splits=["val", "val"]), "column", "leaves no image to train on"),
    ],
)
def test_impossible_splits_are_refused(images: ImageSet, rule: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        split(images, rule)


def test_a_missing_column_is_refused_before_any_work() -> None:
    plain = ImageSet("images", ["a.png"], [ImageRef("a.png")], ["a"])
    for rule, column in (("group", "group"), ("column", "split")):
        with pytest.raises(RequestError, match=f"The split '{rule}' needs the column '{column}' for all images"):
            check_split_column(plain, SplitRule(rule))
    for rule in ("random", "classes"):
        check_split_column(plain, SplitRule(rule))
    check_split_column(dataclasses.replace(plain, splits=[None], groups=[None]), SplitRule("column"))


def test_a_set_of_duplicates_cannot_be_split() -> None:
    with pytest.raises(RequestError, match="at least two different images"):
        split(images_of("aa"), "random", [7, 7])


PATHS = [f"{number:02}.png" for number in range(30)]
IMAGES = ImageSet(
    "images",
    PATHS,
    [ImageRef(path) for path in PATHS],
    [["a", "b", "c"][number % 3] for number in range(30)],
    groups=[str(number // 5) for number in range(30)],
)


@pytest.mark.parametrize("kind", ["random", "group", "classes"])
def test_every_image_is_held_out_once_together_with_its_unit(kind: str) -> None:
    splits = list(fold_images(IMAGES, SplitRule(kind), np.arange(30), folds=3, seed=0))
    assert sorted(np.concatenate([split.validation for split in splits])) == list(range(30))
    units = {"random": PATHS, "group": IMAGES.groups, "classes": IMAGES.labels}[kind]
    for split in splits:
        assert set(split.train).isdisjoint(split.validation)
        held_out = {units[row] for row in split.validation}
        assert held_out.isdisjoint(units[row] for row in split.train)


def test_random_folds_hold_out_each_label_evenly() -> None:
    for split in fold_images(IMAGES, SplitRule(), np.arange(30), folds=5, seed=0):
        assert sorted(IMAGES.labels[row] for row in split.validation) == ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize("kind", ["random", "group", "classes"])
def test_near_duplicates_are_never_on_both_sides(kind: str) -> None:
    duplicates = np.arange(30)
    duplicates[[3, 7, 20]] = 3
    for split in fold_images(IMAGES, SplitRule(kind), duplicates, folds=3, seed=0):
        assert set(duplicates[split.train]).isdisjoint(duplicates[split.validation])


def test_too_few_units_and_columns_are_refused() -> None:
    with pytest.raises(RequestError, match="4 folds need"):
        list(fold_images(IMAGES, SplitRule("classes"), np.arange(30), folds=4, seed=0))
    with pytest.raises(RequestError, match="column"):
        list(fold_images(IMAGES, SplitRule("column"), np.arange(30), folds=2, seed=0))


def test_labels_with_single_images_can_be_folded() -> None:
    single = ImageSet("images", PATHS, IMAGES.refs, PATHS)
    assert [len(split.validation) for split in fold_images(single, SplitRule(), np.arange(30), 5, 0)] == [6] * 5


def test_assigned_folds_spread_each_target_evenly_and_keep_duplicates_together() -> None:
    targets = np.repeat(np.eye(4), 10, axis=0)
    duplicates = np.arange(40)
    duplicates[[1, 2]] = 0
    folds = assign_folds(targets, duplicates, seed=0, count=5)
    assert len(set(folds[:3])) == 1
    for label in range(1, 4):
        assert (np.bincount(folds[10 * label : 10 * label + 10], minlength=5) == 2).all()


def test_assigned_folds_spread_each_target_evenly_whatever_the_numbers_of_the_units() -> None:
    targets, units = np.repeat(np.eye(4), 10, axis=0), np.random.default_rng(1).permutation(40)
    folds = assign_folds(targets, units, seed=0, count=5)
    for label in range(4):
        assert (np.bincount(folds[10 * label : 10 * label + 10], minlength=5) == 2).all()


def test_another_seed_assigns_other_folds_if_all_targets_differ() -> None:
    targets = np.random.default_rng(0).normal(size=(40, 3))
    first, second = (assign_folds(targets, np.arange(40), seed, 5) for seed in (0, 1))
    assert (first != second).any()
    assert (np.bincount(first) == 8).all()


def test_images_of_one_unit_are_split() -> None:
    folds = assign_folds(np.ones((6, 2)), np.zeros(6, int), seed=0, count=5)
    assert sorted(np.bincount(folds)) == [1, 1, 1, 1, 2]
