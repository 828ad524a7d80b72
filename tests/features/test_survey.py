import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import make_images

from pipeline.core.errors import PipelineError
from pipeline.data.images import DIGEST, ImageRef, ImageSet, content_digest
from pipeline.data.sources import find_images
from pipeline.features.backends.worker_process import Decoded
from pipeline.features.extractor import Extractor
from pipeline.features.file_index import FileIndex
from pipeline.features.store import FeatureStore
from pipeline.features.store_group import StoreGroup
from pipeline.features.survey import Survey
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[FileIndex]:
    with contextlib.closing(FileIndex(tmp_path / "cache")) as opened:
        yield opened


@pytest.fixture
def images(tmp_path: Path, index: FileIndex) -> ImageSet:
    """Four images in a bucket, which the file index knows."""
    files = find_images(make_images(tmp_path / "images", range(4))).refs
    refs = [ImageRef(f"s3://photos/{number}.png", listed=f"1-{number}") for number in range(4)]
    index.record([(ref, ref.listed, content_digest(file.read()[0])) for ref, file in zip(refs, files, strict=True)])
    return ImageSet("s3://photos", [f"{number}.png" for number in range(4)], refs, [""] * 4)


@pytest.fixture
def store(tmp_path: Path, images: ImageSet, index: FileIndex) -> FeatureStore:
    opened = FeatureStore(tmp_path / "cache", EXTRACTOR)
    digests = np.array([index.digest(ref) for ref in images.refs], DIGEST)
    made = np.random.default_rng(0)
    opened.append(digests, made.random((4, 512), np.float32), np.zeros((4, 24, 24), np.uint8), np.full(4, 2400))
    return opened


def test_images_removed_in_the_meantime_did_not_change(
    tmp_path: Path, images: ImageSet, index: FileIndex, store: FeatureStore
) -> None:
    survey = Survey(images, StoreGroup([store]), index, 10**6)
    assert survey.unknown == []
    changed = survey.digests[2].tobytes()
    survey.note(Decoded(2, 0, b"n" * 16, "2-2", is_new=True))
    FeatureStore(tmp_path / "cache", EXTRACTOR)._delete(survey.digests[:2])
    store._catch_up()
    survey.drop_incomplete()
    assert survey.failed == {
        0: "its features were removed from the cache while this command ran; run it again",
        1: "its features were removed from the cache while this command ran; run it again",
        2: "it changed while this command ran; run it again",
    }
    assert changed != survey.digests[2].tobytes()


def test_verifying_ignores_the_file_index(images: ImageSet, index: FileIndex, store: FeatureStore) -> None:
    assert Survey(images, StoreGroup([store]), index, 10**6, verify=True).unknown == [0, 1, 2, 3]


def test_a_changed_size_on_disk_skips_no_image(
    tmp_path: Path, images: ImageSet, index: FileIndex, store: FeatureStore
) -> None:
    assert len(Survey(images, StoreGroup([store]), index, 1000).failed) == 4  # really larger than allowed
    [file] = (store.path / "data").iterdir()
    data = bytearray(file.read_bytes())
    data[data.index((2400).to_bytes(8, "little")) + 5] ^= 64
    file.write_bytes(data)
    opened = FeatureStore(tmp_path / "cache", EXTRACTOR)
    with pytest.raises(PipelineError, match=r"damaged.*extract --verify"):
        Survey(images, StoreGroup([opened]), index, 10**6)
    opened.drop_damaged()
    assert len(Survey(images, StoreGroup([opened]), index, 10**6).unknown) == 4 - len(opened)
