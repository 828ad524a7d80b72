"""Matching of targets to images, and messages about images without a target."""

import logging

import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.matching import match_targets
from pipeline.data.targets import TargetTable, read_targets
from pipeline.data.word_vectors import read_word_vectors


def images(*paths: str) -> ImageSet:
    return ImageSet("images", paths, [ImageRef(f"/{path}") for path in paths], [path.split("/")[0] for path in paths])


def table(*keys: str) -> TargetTable:
    return TargetTable("t.csv", {key: row for row, key in enumerate(keys)}, np.eye(len(keys), dtype=np.float32))


def test_labels_match_in_another_case_if_one_key_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = match_targets(images("cat/1.png", "cat/2.png", "Straße/1.png", "dog/1.png"), table("CAT", "STRASSE", "dog"))
    assert list(found.keys) == ["CAT", "CAT", "STRASSE", "dog"]
    assert "2 labels matched by ignoring upper and lower case: 'cat' by 'CAT', 'Straße' by 'STRASSE'." in caplog.text


def test_labels_in_the_same_case_give_no_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    match_targets(images("cat/1.png"), table("cat"))
    assert caplog.text == ""


def test_an_ambiguous_label_has_no_target() -> None:
    with pytest.raises(RequestError, match=r"no target for 1 of 2 images: 'cat/1.png' \(label 'cat'; nearest: 'C"):
        match_targets(images("cat/1.png", "dog/1.png"), table("CAT", "Cat", "dog"))
    assert list(match_targets(images("cat/1.png"), table("CAT", "cat")).keys) == ["cat"]


def test_missing_labels_are_named_once_with_similar_keys(caplog: pytest.LogCaptureFixture) -> None:
    some = images("dgo/1.png", "dgo/2.png", "zebra/1.png", "Teapto/1.png", "teapot/1.png")
    keys = table("dog", "teapot", "unrelated")
    named = "'dgo/1.png' (label 'dgo'; nearest: 'dog'), 'zebra/1.png' (label 'zebra'), 'Teapto/1.png' (label 'Teapto'; "
    with pytest.raises(RequestError) as raised:
        match_targets(some, keys)
    assert f"no target for 4 of 5 images: {named}nearest: 'teapot'). Add" in str(raised.value)
    assert "on_missing='skip'" in str(raised.value)
    assert list(match_targets(some, keys, "skip").rows) == [4]
    assert f"Left out 4 images without a target: {named}" in caplog.text


def test_at_most_five_labels_are_named() -> None:
    some = images("cat/1.png", *(f"missing{number}/1.png" for number in range(9)))
    with pytest.raises(RequestError) as raised:
        match_targets(some, table("cat"))
    assert str(raised.value).count("label") == 5
    assert ", ..." in str(raised.value)


def test_images_without_label_are_named_by_path() -> None:
    some = ImageSet("images", ["1.png", "2.png", "3.png"], [ImageRef("/1.png")] * 3, [""] * 3)
    with pytest.raises(RequestError, match=r"no target for 2 of 3 images: '2.png', '3.png'\. Add"):
        match_targets(some, table("1.png"))


def test_labels_missing_in_word_vectors_are_named_once(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "glove.txt"
    file.write_text("griffon 1 1\nbronchoconstriction 2 2\nsea 1 0\nlion 0 1\nsea_horse 5 5\nretriever 3 3\n")
    labels = ("griffon", "sea_lion", "sea_horse", "Brabancon_griffon", "golden_retreiver", *(f"{n}z" for n in range(9)))
    some = images(*(f"{label}/1.png" for label in labels))
    match_targets(some, read_targets(file, some, "skip"), "skip")
    assert "3 of 14 labels found (1 as the mean of several words)." in caplog.text
    assert "1 label in another spelling: 'sea_lion' by 'sea' and 'lion'." in caplog.text
    assert caplog.text.count("Brabancon_griffon") == 1
    assert "bronchoconstriction" not in caplog.text
    assert "'golden_retreiver' (nearest: retriever); '0z'; '1z'; '2z'; ..." in caplog.text
    assert "Left out 11 images without a target." in caplog.text


def test_missing_labels_beyond_the_first_are_counted(tmp_path) -> None:
    file = tmp_path / "glove.txt"
    file.write_text("cat 1 1\n")
    found, missing = read_word_vectors(file, ["cat", *(f"caat{number}" for number in range(7))])
    assert list(found) == ["cat"]
    assert len(missing) == 7
