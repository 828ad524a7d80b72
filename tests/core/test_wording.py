"""Words of messages."""

from pipeline.core.wording import counted, near_spellings


def test_only_one_is_singular() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]


def test_similar_spellings_are_recognized() -> None:
    choices = ["cat", "bronchoconstriction", "retriever", "griffon", "teapot"]
    names = ["caat", "Brabancon_griffon", "retreiver", "teapto", "xyz"]
    assert near_spellings({name: [name.lower()] for name in names}, iter(choices)) == {
        "caat": ["cat"],
        "Brabancon_griffon": [],
        "retreiver": ["retriever"],
        "teapto": ["teapot"],
        "xyz": [],
    }
