import numpy as np
import pytest

from pipeline.commands.examples import set_apart
from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.splits import SplitRule, split_images

PATHS = [f"{number:02}.png" for number in range(40)]
IMAGES = ImageSet(
    "images",
    PATHS,
    [ImageRef(path) for path in PATHS],
    [str(number // 4) for number in range(40)],
    groups=[str(number % 8) for number in range(40)],
    splits=["train"] * 30 + ["test"] * 10,
)


@pytest.mark.parametrize("kind", ["random", "group", "classes", "column"])
def test_selection_images_are_set_apart_by_the_rule_of_the_split(kind: str) -> None:
    rule, numbers = SplitRule(kind), np.arange(40)
    for seed in range(5):
        split, selection = set_apart(IMAGES, split_images(IMAGES, rule, numbers, seed), rule, numbers, seed)
        train = np.setdiff1d(split.train, selection)
        assert len(train) > len(selection) > 0
        assert np.isin(selection, split.train).all()
        column = {"group": IMAGES.groups, "classes": IMAGES.labels}.get(kind, IMAGES.paths)
        sides = [{column[row] for row in rows} for rows in (train, selection, split.validation)]
        assert not sides[0] & sides[1]
        assert not (sides[0] | sides[1]) & sides[2]


def test_near_duplicates_of_selection_images_are_not_trained_on() -> None:
    rule, numbers = SplitRule("classes"), np.arange(40)
    numbers[::4] = 0  # one image under every label
    split = split_images(IMAGES, rule, numbers, 0)
    split, selection = set_apart(IMAGES, split, rule, numbers, 0)
    train = np.setdiff1d(split.train, selection)
    assert not set(numbers[train]) & set(numbers[selection])
    labels = np.array(IMAGES.labels)
    assert not set(labels[train]) & set(labels[selection])
    everywhere = np.sort(np.concatenate([train, selection, split.validation, split.moved]))
    assert everywhere.tolist() == list(range(40))


def test_a_single_training_group_leaves_no_selection_images() -> None:
    rule, numbers = SplitRule("group"), np.arange(10)
    images = IMAGES.subset(range(10))
    images = ImageSet("images", images.paths, images.refs, images.labels, groups=["a"] * 5 + ["b"] * 5)
    split = split_images(images, rule, numbers, 0)
    with pytest.raises(RequestError, match=r"keep='best' sets training images apart.*two groups.*keep='last'"):
        set_apart(images, split, rule, numbers, 0)
