import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import picture

from pipeline.cli import extract
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.vectors import in_blocks
from pipeline.data.decoding import decode
from pipeline.data.images import read
from pipeline.data.sources import find_images
from pipeline.features.engines.__init__ import make_engine
from pipeline.features.extraction import ExtractionOptions
from pipeline.features.extractor import Extractor
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


@pytest.fixture
def computing(tmp_path: Path) -> ExtractionOptions:
    return ExtractionOptions(engine="keras", batch_size=4, workers=2, cache=tmp_path / "cache", progress=False)


def test_vectors_are_in_step_with_their_paths(folder: Path, computing: ExtractionOptions) -> None:
    features = extract(find_images(folder), EXTRACTOR, computing)
    assert (features.computed, features.cached, features.failed) == (6, 0, [])
    engine = make_engine("keras", EXTRACTOR, 1, computing.cache)
    for path, vector in zip(features.paths, features.vectors(), strict=True):
        alone = engine(decode(read(folder / path)[0])[None])[0]
        np.testing.assert_allclose(vector, alone, rtol=1e-4, atol=1e-4)
    assert np.array_equal(np.concatenate(list(in_blocks(features.stored()))), features.vectors())


def test_only_new_content_is_computed(folder: Path, computing: ExtractionOptions) -> None:
    first = extract(find_images(folder), EXTRACTOR, computing)
    vectors = dict(zip(first.paths, first.vectors(), strict=True))

    again = extract(find_images(folder), EXTRACTOR, computing)
    assert (again.computed, again.cached, again.engine) == (0, 6, None)

    (folder / "red" / "0.png").rename(folder / "blue" / "moved.png")
    shutil.copy(folder / "red" / "1.png", folder / "copy.png")
    picture(99).save(folder / "new.png")
    picture(98).save(folder / "twice.png")
    shutil.copy(folder / "twice.png", folder / "twin.png")
    changed = extract(find_images(folder), EXTRACTOR, computing)
    assert (changed.computed, changed.cached) == (2, 8)
    found = dict(zip(changed.paths, changed.vectors(), strict=True))
    assert np.array_equal(found["blue/moved.png"], vectors["red/0.png"])
    assert np.array_equal(found["copy.png"], vectors["red/1.png"])
    assert np.array_equal(found["twice.png"], found["twin.png"])
    assert not np.array_equal(found["new.png"], found["twice.png"])


def test_unreadable_images_are_skipped_and_change_no_other(folder: Path, computing: ExtractionOptions) -> None:
    (folder / "a-first.png").write_bytes(b"no picture")
    (folder / "red" / "1b.jpg").write_bytes((folder / "red" / "0.png").read_bytes()[:300])
    features = extract(find_images(folder), EXTRACTOR, computing)
    assert [failure.path for failure in features.failed] == ["a-first.png", "red/1b.jpg"]
    assert "not an image" in features.failed[0].error
    assert len(features.paths) == len(features.vectors()) == features.computed == 6

    for failure in features.failed:
        (folder / failure.path).unlink()
    clean = ExtractionOptions(engine="keras", batch_size=4, cache=computing.cache / "other", progress=False)
    assert np.array_equal(extract(find_images(folder), EXTRACTOR, clean).vectors(), features.vectors())


def test_a_folder_of_unreadable_images_is_an_error(tmp_path: Path, computing: ExtractionOptions) -> None:
    (tmp_path / "only.png").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"None of the 1 images.*only.png: the file is empty"):
        extract(find_images(tmp_path), EXTRACTOR, computing)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "--batch-size"), ({"workers": 0}, "--workers"), ({"engine": "abacus"}, "--engine 'abacus'")],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ExtractionOptions(**options)
