"""On a data set that is built here with tensorflow-datasets' own builder, TFRecords on disk and all."""

from pathlib import Path

import numpy as np
import pytest
from conftest import picture

from pipeline.cli import extract
from pipeline.core.errors import PipelineError, RequestError
from pipeline.data.sources import find_images
from pipeline.features.extraction import ExtractionOptions
from pipeline.features.extractor import Extractor
from pipeline.features.weights import weights_from

LABELS = ["golden retriever", "teapot"]
EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tfds:small_pictures`: 12 pictures to train on, 3 to test, and one without pictures."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")

    class SmallPictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="plain"), tfds.core.BuilderConfig(name="big"))

        def _info(self) -> tfds.core.DatasetInfo:
            features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=LABELS)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, download) -> dict:
            return {"train": self._generate_examples(range(12)), "test": self._generate_examples(range(12, 15))}

        def _generate_examples(self, numbers):
            for number in numbers:
                yield number, {"image": np.asarray(picture(number)), "label": number % 2}

    class NoPictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, download) -> dict:
            return {"train": ((number, {"text": "word"}) for number in range(2))}

        def _generate_examples(self) -> None: ...

    SmallPictures(data_dir=folder, config="plain").download_and_prepare()
    NoPictures(data_dir=folder).download_and_prepare()
    return folder


def test_examples_are_named_labelled_and_keyed_by_content(tfds_dir: Path, tmp_path: Path) -> None:
    images = find_images("tfds:small_pictures/plain:train", tfds_dir)
    assert len(images) == 12
    assert all(path.startswith("small_pictures-train.tfrecord-") for path in images.paths)
    assert len(set(images.paths)) == 12
    assert sorted(images.labels) == ["golden retriever"] * 6 + ["teapot"] * 6

    computing = ExtractionOptions(engine="keras", batch_size=4, workers=2, cache=tmp_path / "cache", progress=False)
    features = extract(images, EXTRACTOR, computing)
    assert (features.computed, features.cached, features.failed) == (12, 0, [])
    assert list(features.paths) == list(images.paths)

    # The same bytes in files of a folder are known already, and have the same vectors.
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, record in enumerate(images.files):
        (folder / f"{number:02}.png").write_bytes(record.read())
    again = extract(find_images(folder), EXTRACTOR, computing)
    assert (again.computed, again.cached) == (0, 12)
    assert np.array_equal(again.vectors(), features.vectors())


def test_records_are_read_in_any_order(tfds_dir: Path) -> None:

    records = find_images("tfds:small_pictures/plain:test", tfds_dir).files
    for row in (0, 2, 1, 1, 0):
        assert digest(records[row].read()) == records[row].digest


def test_parts_of_a_split_are_splits(tfds_dir: Path) -> None:
    assert len(find_images("tfds:small_pictures/plain:train[:25%]", tfds_dir)) == 3


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("tfds:small_pictures", RequestError, "named as tfds:NAME"),
        ("tfds:no_such_data_set:train", RequestError, "neither knows such a data set"),
        ("tfds:small_pictures/plain:dev", RequestError, "dev"),
        ("tfds:no_pictures:train", RequestError, "has no image"),
        ("tfds:beans:train", PipelineError, r"is not in .*cannot be downloaded.*--data-dir"),
    ],
)
def test_what_is_not_there_is_named(tfds_dir: Path, source: str, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message) as raised:
        find_images(source, tfds_dir)
    assert source in str(raised.value)
