from pathlib import Path

import numpy as np
import pytest

from pipeline.commands.examples import Source, set_apart
from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.options import TargetOptions
from pipeline.data.splits import SplitRule, split_images

PATHS = [f"{number:02}.png" for number in range(40)]
PAIRS = list(enumerate(PATHS))
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


def test_targets_are_checked_to_be_the_means_of_their_repeats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "repeats.csv").write_text("path,x\n" + "".join(f"{path},{n}\n{path},{n + 1}\n" for n, path in PAIRS))
    for offset, warned in ((0.5, False), (0, True)):
        (tmp_path / "targets.csv").write_text("path,x\n" + "".join(f"{path},{n + offset}\n" for n, path in PAIRS))
        options = TargetOptions(tmp_path / "targets.csv", noise_ceiling=tmp_path / "repeats.csv")
        source = Source.read(IMAGES, options)
        assert ("40 of 40 targets are not the means of their repeats" in caplog.text) is warned
        assert len(source.table.repeats[PATHS[0]]) == 2


def test_repeated_targets_give_a_noise_ceiling(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,x\n" + "".join(f"{path},{n}\n{path},{n + 1}\n" for n, path in PAIRS))
    table = Source.read(IMAGES, TargetOptions(tmp_path / "t.csv")).table
    assert table.repeats.keys() == set(PATHS)
    assert table.vectors.ravel().tolist() == [number + 0.5 for number in range(40)]
