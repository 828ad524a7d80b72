import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.data.folds import fold_images
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.splits import SplitRule

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
