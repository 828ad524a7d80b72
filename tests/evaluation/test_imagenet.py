import pytest

from pipeline.evaluation.imagenet import is_imagenet_class


@pytest.mark.parametrize(
    "label", ["tench", "great white shark", "great_white_shark", "GreatWhiteShark", "Golden Retriever"]
)
def test_classes_are_recognized_in_any_spelling(label: str) -> None:
    assert is_imagenet_class(label)


@pytest.mark.parametrize("label", ["", "shark", "astronaut", "white"])
def test_other_labels_are_not_classes(label: str) -> None:
    assert not is_imagenet_class(label)
