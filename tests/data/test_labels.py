"""Labels from paths."""

import pytest

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.labels import label_by_pattern

IMAGES = ImageSet("images", ["n01_cat.1.jpg", "sub/n02_sea_lion.jpg"], [ImageRef("/a"), ImageRef("/b")], ["", "sub"])


def test_labels_are_what_the_group_finds_in_the_path() -> None:
    found = label_by_pattern(IMAGES, r"n\d+_(?P<label>[a-z_]+)")
    assert list(found.labels) == ["cat", "sea_lion"]
    assert list(found.paths) == list(IMAGES.paths)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a regular expression"),
        (r"n\d+_(.+)", r"no group named 'label'; write \(\?P<label>"),
        (r"(?P<label>cat)", "finds no label in 1 of 2 paths: 'sub/n02_sea_lion.jpg'"),
        (r"(?P<label>x?)", "finds no label in 2 of 2 paths"),
        (r"n(?P<label>x)?", "finds no label in 2 of 2 paths"),
    ],
)
def test_patterns_that_give_no_label_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        label_by_pattern(IMAGES, pattern)
