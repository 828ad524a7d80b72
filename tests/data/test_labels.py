"""Labels from paths."""

import pytest

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.labels import label_by_pattern

IMAGES = ImageSet("images", ["n01_cat.1.jpg", "sub/n02_sea_lion.jpg"], [ImageRef("/a"), ImageRef("/b")], ["", "sub"])


def test_labels_are_extracted_from_the_path() -> None:
    labelled = label_by_pattern(IMAGES, r"n\d+_(?P<label>[a-z_]+)")
    assert list(labelled.labels) == ["cat", "sea_lion"]
    assert list(labelled.paths) == list(IMAGES.paths)


@pytest.mark.parametrize(
    ("pattern", "labels"),
    [
        (r"n\d+_(?P<label>.+)", ["cat.1", "sea_lion"]),
        (r"n\d+_(?P<label>.+)\.jpg", ["cat.1", "sea_lion"]),
        (r"n\d+_(?P<label>.+)$", ["cat.1", "sea_lion"]),
        (r"\.(?P<label>[a-z]+)$", ["jpg", "jpg"]),
        (r"(?P<label>.+)_", ["n01", "sub/n02_sea"]),
    ],
)
def test_a_label_at_the_end_of_a_path_excludes_the_suffix(pattern: str, labels: list[str]) -> None:
    assert list(label_by_pattern(IMAGES, pattern).labels) == labels


def test_a_name_that_is_not_a_file_has_no_suffix() -> None:
    examples = ImageSet("tfds:a:train", ["train/mr. cat"], [ImageRef("tfds:a:train#0")], [""])
    assert list(label_by_pattern(examples, "/(?P<label>.+)").labels) == ["mr. cat"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a regular expression"),
        (r"n\d+_(.+)", r"no group named 'label'; write \(\?P<label>"),
        (r"(?P<label>cat)", "finds no label in 1 of 2 paths: 'sub/n02_sea_lion.jpg'"),
        (r"(?P<label>x?)", "finds no label in 2 of 2 paths"),
        (r"n(?P<label>x)?", "finds no label in 2 of 2 paths"),
        (r"(?P<label>\.jpg)", "finds no label in 2 of 2 paths"),
    ],
)
def test_patterns_without_a_label_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        label_by_pattern(IMAGES, pattern)
