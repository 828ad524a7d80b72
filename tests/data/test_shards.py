import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageRef, ImageSet
from pipeline.data.shards import Shard


def image_set(names: list[str], passed_over: tuple[str, ...] = ()) -> ImageSet:
    targets = np.arange(len(names), dtype=np.float32)[:, None]
    refs = [ImageRef(f"/photos/{name}") for name in names]
    return ImageSet("photos", names, refs, ["red"] * len(names), targets=targets, passed_over=passed_over)


NAMES = [f"red/{number:04}.jpg" for number in range(2000)]


@pytest.mark.parametrize("text", ["1/1", "3/16", "16/16", "03/16"])
def test_shard_options_are_parsed(text: str) -> None:
    number, count = map(int, text.split("/"))
    assert Shard.parse(text) == Shard(number, count)
    assert str(Shard.parse(text)) == f"{number}/{count}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0/16", "the first is 1/16, the last 16/16"),
        ("17/16", "the first is 1/16, the last 16/16"),
        ("3/0", "there is at least one"),
        ("0/0", "there is at least one"),
        *(
            (text, "is not NUMBER/COUNT")
            for text in ("", "3", "/16", "3/", "-1/16", "3/16/2", "a/b", "3 of 16", "٣/١٦")
        ),
    ],
)
def test_other_shards_are_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Shard.parse(text)


@pytest.mark.parametrize("count", [1, 3, 16])
def test_every_image_is_in_one_shard_and_shards_are_even(count: int) -> None:
    images = image_set(NAMES, tuple(f"{name}.nef" for name in NAMES))
    shards = [Shard(number, count).select(images) for number in range(1, count + 1)]
    for column in ("paths", "passed_over"):
        shared_out = [name for shard in shards for name in getattr(shard, column)]
        assert sorted(shared_out) == list(getattr(images, column))
    assert all(abs(len(shard) - 2000 / count) < 5 * (2000 / count) ** 0.5 for shard in shards)


def test_an_image_keeps_its_columns_and_its_order() -> None:
    shard = Shard(2, 3).select(image_set(NAMES))
    assert list(shard.paths) == sorted(shard.paths)
    assert [ref.uri for ref in shard.refs] == [f"/photos/{name}" for name in shard.paths]
    assert [NAMES[int(row)] for row in shard.targets[:, 0]] == shard.paths


def test_additional_images_move_no_others() -> None:
    before = Shard(3, 16).select(image_set(NAMES[::2])).paths
    assert before == [name for name in Shard(3, 16).select(image_set(NAMES)).paths if name in NAMES[::2]]


def test_shards_are_the_same_in_every_version() -> None:
    names = ["astronaut/0-0.jpg", "cat/1-2.jpg", "größe/東京.png", "tfds:mnist:train#7"]
    assert [next(n for n in range(1, 17) if Shard(n, 16).holds(name)) for name in names] == [14, 7, 9, 9]


def test_a_shard_can_be_empty() -> None:
    shards = [Shard(number, 5).select(image_set(["a.png"])) for number in range(1, 6)]
    assert sorted(len(shard) for shard in shards) == [0, 0, 0, 0, 1]
    assert all(shard.targets.shape == (len(shard), 1) for shard in shards)
