import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import CrashingRef, make_image, wait_for_tick

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.vectors import in_blocks
from pipeline.data.decoding import decode
from pipeline.data.sources import find_images
from pipeline.features.backends import local
from pipeline.features.engines import make_engine
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions
from pipeline.features.survey import Failure
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")


@pytest.fixture
def options(fresh_cache: Callable[[str], Path]) -> ExtractionOptions:
    return ExtractionOptions(engine="mnn", batch_size=4, workers=2, cache=fresh_cache("cache"), progress=False)


def test_vectors_match_their_paths(folder: Path, options: ExtractionOptions) -> None:
    features = extract_features(find_images(folder), EXTRACTOR, options)
    assert (features.computed, features.cached, features.failed) == (6, 0, [])
    engine = make_engine("mnn", [EXTRACTOR], 1, options.folder)
    for path, vector in zip(features.paths, features.vectors(), strict=True):
        alone = engine(decode((folder / path).read_bytes())[None])[0][0]
        np.testing.assert_allclose(vector, alone, rtol=1e-4, atol=1e-4)
    assert np.array_equal(np.concatenate(list(in_blocks(features.stored()))), features.vectors())


def test_only_new_content_is_computed(folder: Path, options: ExtractionOptions) -> None:
    first = extract_features(find_images(folder), EXTRACTOR, options)
    vectors = dict(zip(first.paths, first.vectors(), strict=True))

    again = extract_features(find_images(folder), EXTRACTOR, options)
    assert (again.computed, again.cached, again.engine) == (0, 6, None)

    (folder / "red" / "0.png").rename(folder / "blue" / "moved.png")
    shutil.copy(folder / "red" / "1.png", folder / "copy.png")
    make_image(99).save(folder / "new.png")
    make_image(98).save(folder / "twice.png")
    shutil.copy(folder / "twice.png", folder / "twin.png")
    changed = extract_features(find_images(folder), EXTRACTOR, options)
    assert (changed.computed, changed.cached) == (2, 8)
    features_of = dict(zip(changed.paths, changed.vectors(), strict=True))
    assert np.array_equal(features_of["blue/moved.png"], vectors["red/0.png"])
    assert np.array_equal(features_of["copy.png"], vectors["red/1.png"])
    assert np.array_equal(features_of["twice.png"], features_of["twin.png"])
    assert not np.array_equal(features_of["new.png"], features_of["twice.png"])


def test_the_first_failures_are_named_and_the_others_counted(
    folder: Path, options: ExtractionOptions, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(8):
        (folder / f"broken{number}.png").write_bytes(b"broken")
    features = extract_features(find_images(folder), EXTRACTOR, options)
    assert len(features.failed) == 8
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [message.partition(":")[0] for message in messages[:5]] == [f"skipped broken{at}.png" for at in range(5)]
    assert messages[5:] == ["skipped 3 more images; --json names all."]


def test_vectors_follow_images_that_exchange_their_names(tmp_path: Path, options: ExtractionOptions) -> None:
    images = tmp_path / "bitmaps"
    for name in ("a/1.bmp", "a/2.bmp", "b/1.bmp", "b/2.bmp"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        make_image(sum(map(ord, name))).save(images / name)
        os.utime(images / name, (1_000, 1_000))
    wait_for_tick(images)
    before = extract_features(find_images(images), EXTRACTOR, options).vectors()
    for one, other in (("a", "b"), ("b/1.bmp", "b/2.bmp")):
        (images / one).rename(images / "aside")
        (images / other).rename(images / one)
        (images / "aside").rename(images / other)
    after = extract_features(find_images(images), EXTRACTOR, options)
    assert after.computed == 0
    assert np.array_equal(after.vectors(), before[[2, 3, 1, 0]])


def test_unreadable_images_are_skipped_without_changing_others(
    folder: Path, options: ExtractionOptions, fresh_cache: Callable[[str], Path]
) -> None:
    (folder / "a-first.png").write_bytes(b"not an image")
    (folder / "red" / "1b.jpg").write_bytes((folder / "red" / "0.png").read_bytes()[:300])
    features = extract_features(find_images(folder), EXTRACTOR, options)
    assert [failure.path for failure in features.failed] == ["a-first.png", "red/1b.jpg"]
    assert "not an image" in features.failed[0].error
    assert len(features.paths) == len(features.vectors()) == features.computed == 6

    for failure in features.failed:
        (folder / failure.path).unlink()
    clean = replace(options, cache=fresh_cache("clean"))
    assert np.array_equal(extract_features(find_images(folder), EXTRACTOR, clean).vectors(), features.vectors())


def test_an_image_that_crashes_the_decoder_is_skipped_and_retried_by_the_next_run(
    folder: Path, options: ExtractionOptions, caplog: pytest.LogCaptureFixture
) -> None:
    wait_for_tick(folder)
    images = find_images(folder)
    crashing = replace(images, refs=[CrashingRef(images.refs[0].uri), *images.refs[1:]])
    features = extract_features(crashing, EXTRACTOR, options)
    assert features.failed == [Failure(images.paths[0], "decoding it ended the process (SIGSEGV)")]
    assert list(features.paths) == list(images.paths[1:])
    assert f"skipped {images.paths[0]}: decoding it ended the process" in caplog.text
    assert extract_features(crashing, EXTRACTOR, options).failed == features.failed
    again = extract_features(images, EXTRACTOR, options)
    assert (again.failed, again.computed, again.cached) == ([], 1, 5)
    assert extract_features(images, EXTRACTOR, options).cached == 6


def test_an_engine_gets_as_many_concurrent_batches_as_it_supports(
    folder: Path, options: ExtractionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_are_here = threading.Barrier(2, timeout=60)

    def in_pairs(pixels: np.ndarray) -> list[np.ndarray]:
        if both_are_here.wait():  # the batches do not finish in the order of their requests
            time.sleep(0.05)
        return [np.full((1, EXTRACTOR.dim), pixels.mean(), np.float32)]

    in_pairs.name, in_pairs.batch_size, in_pairs.at_once, in_pairs.device = "pairs", 1, 2, "cpu"  # type: ignore[attr-defined]
    monkeypatch.setattr(local, "make_engine", lambda *_: in_pairs)
    images = find_images(folder)
    features = extract_features(images, EXTRACTOR, options)
    means = [decode(ref.read()[0]).mean() for ref in images.refs]
    np.testing.assert_allclose(features.vectors()[:, 0], means, rtol=1e-5)


def test_a_failing_engine_gives_one_error_and_keeps_stored_features(
    folder: Path, options: ExtractionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine("mnn", [EXTRACTOR], 1, options.folder)
    seen: list[int] = []

    def failing(pixels: np.ndarray) -> list[np.ndarray]:
        seen.append(1)
        if len(seen) == 4:
            raise PipelineError("The engine fails.")
        return engine(pixels)

    failing.name, failing.batch_size, failing.at_once, failing.device = "mnn", 1, 1, "cpu"  # type: ignore[attr-defined]
    monkeypatch.setattr(local, "make_engine", lambda *_: failing)
    images = find_images(folder)
    with pytest.raises(PipelineError, match="The engine fails"):
        extract_features(images, EXTRACTOR, options)
    assert extract_features(images, EXTRACTOR, options).cached >= 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [[1], [0, 1, 2, 3], [5]])
def test_a_nonfinite_vector_fails_only_its_image(
    bad: float, rows: list[int], folder: Path, options: ExtractionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, seen = find_images(folder), itertools.count()

    def engine(pixels: np.ndarray) -> list[np.ndarray]:
        features, number = np.ones((4, EXTRACTOR.dim), np.float32), next(seen)
        features[[row % 4 for row in rows if row // 4 == number], -1] = bad
        return [features]

    engine.name, engine.batch_size, engine.at_once, engine.device = "odd", 4, 1, "cpu"  # type: ignore[attr-defined]
    monkeypatch.setattr(local, "make_engine", lambda *_: engine)
    features = extract_features(images, EXTRACTOR, options)
    assert [failure.path for failure in features.failed] == [images.paths[row] for row in rows]
    assert all("NaN or infinite values" in failure.error for failure in features.failed)
    assert features.computed == len(features.vectors()) == 6 - len(rows)
    assert np.isfinite(features.vectors()).all()
    again = extract_features(images, EXTRACTOR, options)
    assert (again.failed, again.computed, again.cached) == ([], len(rows), 6 - len(rows))


def test_copies_of_an_image_with_a_nonfinite_vector_also_fail(
    folder: Path, options: ExtractionOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(folder / "red" / "0.png", folder / "red" / "copy.png")

    def engine(pixels: np.ndarray) -> list[np.ndarray]:
        features = np.ones((4, EXTRACTOR.dim), np.float32)
        features[3] = np.nan  # the row of red/0.png, in the first batch
        return [features]

    engine.name, engine.batch_size, engine.at_once, engine.device = "odd", 4, 1, "cpu"  # type: ignore[attr-defined]
    monkeypatch.setattr(local, "make_engine", lambda *_: engine)
    features = extract_features(find_images(folder), EXTRACTOR, options)
    assert [failure.path for failure in features.failed] == ["red/0.png", "red/copy.png"]
    assert len({failure.error for failure in features.failed}) == 1
    assert features.computed == 5


def test_a_folder_of_unreadable_images_is_an_error(tmp_path: Path, options: ExtractionOptions) -> None:
    (tmp_path / "only.png").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"None of the 1 images.*only.png: the file is empty"):
        extract_features(find_images(tmp_path), EXTRACTOR, options)


@pytest.mark.parametrize(("engine", "precision"), [("mnn", "bfloat16"), ("mnn", "int8"), ("keras", "int8")])
def test_an_engine_without_the_precision_is_refused_before_any_work(
    folder: Path, options: ExtractionOptions, engine: str, precision: str
) -> None:
    extractor = Extractor(weights_from("random:0"), "block5_pool", precision)
    with pytest.raises(RequestError, match=rf"engine {engine} .*{precision}|engine {engine} computes in float32"):
        extract_features(find_images(folder), extractor, replace(options, engine=engine))
    assert not (options.folder / "features").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"engine": "abacus"}, "engine 'abacus' is unknown"),
    ],
)
def test_wrong_options_are_refused_by_parameter(wrong: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ExtractionOptions(**wrong)
