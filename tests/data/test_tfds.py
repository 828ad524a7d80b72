"""On a data set that is built here with tensorflow-datasets' own builder, TFRecords on disk and all."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import RequestError
from pipeline.data.images import content_digest
from pipeline.data.sources import find_images
from pipeline.features.extraction import ExtractionOptions, extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tfds:small_images`, 12 images for training and 3 for testing, and `tfds:no_images`."""
    from small_datasets import NoImages, SmallImages

    folder = tmp_path_factory.mktemp("tfds")
    SmallImages(data_dir=folder, config="plain").download_and_prepare()
    NoImages(data_dir=folder).download_and_prepare()
    return folder


def test_examples_are_named_labelled_and_known_by_content(tfds_dir: Path, fresh_cache, tmp_path: Path) -> None:
    images = find_images("tfds:small_images/plain:train", tfds_dir)
    assert len(images) == 12
    assert all(path.startswith("small_images-train.tfrecord-") for path in images.paths)
    assert len(set(images.paths)) == 12
    assert sorted(images.labels) == ["golden retriever"] * 6 + ["teapot"] * 6

    options = ExtractionOptions(engine="mnn", batch_size=4, workers=1, cache=fresh_cache("cache"), progress=False)
    features = extract_features(images, EXTRACTOR, options)
    assert (features.computed, features.cached, features.failed) == (12, 0, [])
    assert list(features.paths) == list(images.paths)

    # The same bytes as files in a folder are known already, and have the same vectors.
    folder = tmp_path / "images"
    folder.mkdir()
    for number, ref in enumerate(images.refs):
        (folder / f"{number:02}.png").write_bytes(ref.read()[0])
    again = extract_features(find_images(folder), EXTRACTOR, options)
    assert (again.computed, again.cached) == (0, 12)
    assert np.array_equal(again.vectors(), features.vectors())


def test_examples_are_read_in_any_order(tfds_dir: Path) -> None:
    refs = find_images("tfds:small_images/plain:test", tfds_dir).refs
    for row in (0, 2, 1, 1, 0):
        assert content_digest(refs[row].read()[0]) == refs[row].digest


def test_parts_of_a_split_are_splits(tfds_dir: Path) -> None:
    assert len(find_images("tfds:small_images/plain:train[:25%]", tfds_dir)) == 3


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("tfds:small_images", RequestError, "as tfds:NAME"),
        ("tfds:no_such_data_set:train", RequestError, "does not know this data set"),
        ("tfds:small_images/plain:dev", RequestError, "dev"),
        ("tfds:no_images:train", RequestError, "has no image"),
    ],
)
def test_what_is_not_there_is_named(tfds_dir: Path, source: str, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message) as raised:
        find_images(source, tfds_dir)
    assert source in str(raised.value)
