import dataclasses
import logging
import unicodedata

import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.matching import match_targets
from pipeline.data.targets import TargetTable


def images(*paths: str) -> ImageSet:
    labels = [path.rpartition("/")[0] for path in paths]
    return ImageSet("images", paths, [ImageRef(f"/{path}") for path in paths], labels)


def table(**vectors: list[float]) -> TargetTable:
    rows = {key.replace("_", "/"): row for row, key in enumerate(vectors)}
    return TargetTable("targets.csv", rows, np.array(list(vectors.values()), np.float32))


def test_paths_are_matched_before_labels() -> None:
    matched = match_targets(images("cat/a", "cat/b"), table(cat=[1, 0], cat_b=[0, 1]))
    assert matched.keys == ["cat", "cat/b"]
    assert matched.targets.tolist() == [[1, 0], [0, 1]]
    assert matched.rows.tolist() == [0, 1]


def test_images_without_target_are_an_error_or_skipped(caplog: pytest.LogCaptureFixture) -> None:
    some, targets = images("cat/a", "dog/a", "cat/b"), table(cat=[1, 0], bird=[1, 1])
    with pytest.raises(RequestError, match=r"no target for 1 of 3 images: 'dog/a'.*skip"):
        match_targets(some, targets)
    matched = match_targets(some, targets, "skip")
    assert (matched.rows.tolist(), matched.keys) == ([0, 2], ["cat", "cat"])
    assert "Left out 1 image without a target: 'dog/a'" in caplog.text


def test_no_match_at_all_is_an_error_that_shows_both_sides() -> None:
    with pytest.raises(RequestError, match=r"no target for any of the images, .*'dog/a'.*'dog'.*'cat'"):
        match_targets(images("dog/a"), table(cat=[1, 0]), "skip")


def test_no_match_by_label_shows_the_first_label_if_there_is_one() -> None:
    with pytest.raises(
        RequestError, match=r"by label \(the images have none: no folders, and no label_pattern=REGEX\)"
    ):
        match_targets(images("a"), table(cat=[1, 0]))
    with pytest.raises(RequestError, match=r"by label \(such as 'dog'\)"):
        match_targets(images("a", "dog/a"), table(cat=[1, 0]))


def test_targets_without_images_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    match_targets(images("cat/a"), table(cat=[1, 0], **{f"bird{number}": [1, 1] for number in range(7)}))
    assert "targets.csv has 7 targets without an image: 'bird0'" in caplog.text
    assert caplog.text.rstrip().endswith("'bird4', ....")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("caf\u00e9", "cafe\u0301/1.png"),  # a folder with macOS's decomposed names, a table with composed ones
        ("caf\u00e9/1.png", "cafe\u0301/1.png"),
        ("/cat/1.png", "cat/1.png"),
        ("cat\\1.png", "cat/1.png"),
        ("cat\\1.png", "cat\\1.png"),
    ],
)
def test_keys_that_look_the_same_match(key: str, name: str) -> None:
    some = images(name)
    some = dataclasses.replace(some, labels=[unicodedata.normalize("NFC", label) for label in some.labels])
    assert match_targets(some, TargetTable("t.csv", {key: 0}, np.ones((1, 2)))).keys == [key]


def test_a_missing_suffix_is_named() -> None:
    keys = TargetTable("t.csv", {"cat/1": 0, "dog/1": 1}, np.ones((2, 2)))
    with pytest.raises(RequestError, match=r"Paths need their suffix: 'cat/1\.png', not 'cat/1'"):
        match_targets(images("cat/1.png", "dog/1.png"), keys)
    with pytest.raises(RequestError, match=r"Paths need their suffix: 'dog/1\.png'"):
        match_targets(images("cat/1.png", "dog/1.png"), dataclasses.replace(keys, rows={"cat": 0, "dog/1": 1}))
