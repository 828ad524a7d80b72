"""`search --index`: results are images in IMAGES, with the cosines of the exact search."""

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from helpers import make_images

from pipeline.cli.search import print_search
from pipeline.commands.options import INDEXED_ABOVE, SearchOptions
from pipeline.commands.search import SearchResult, search
from pipeline.data.decoding import THUMBNAIL
from pipeline.data.images import DIGEST, content_digest
from pipeline.features.options import ExtractionOptions, ExtractorOptions
from pipeline.features.store import FeatureStore

CHOSEN = ExtractorOptions("random:0", "block1_pool")  # 64 numbers
IMAGES, OTHERS = 400, 2000  # images in the folder; other images in the store
COPIED = "0007.png"


@dataclass(frozen=True)
class Searched:
    """A folder of images, and a store with made-up features of them and of other images."""

    images: Path
    cache: Path
    queries: np.ndarray

    def find(self, number: int, count: int = 10, **changes: object) -> SearchResult:
        """The images nearest to the vector of an image."""
        query = self.images.parent / f"query{number}.npy"
        np.save(query, self.queries[number])
        extraction = ExtractionOptions(cache=self.cache, progress=False, workers=1)
        options = SearchOptions(str(self.images), str(query), count, extractor=CHOSEN, extraction=extraction)
        return search(replace(options, **{"index": True, "index_above": 100, **changes}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("indexed")
    images = make_images(folder / "images", range(IMAGES))
    contents = [file.read_bytes() for file in sorted(images.iterdir())]
    shutil.copy(images / COPIED, images / "copy.png")
    random = np.random.default_rng(0)
    digests = [content_digest(content) for content in contents] + [random.bytes(16) for _ in range(OTHERS)]
    # With few degrees of freedom, like features; with independent numbers any index misses neighbours.
    vectors = (random.normal(size=(IMAGES + OTHERS, 5)) @ random.normal(size=(5, 64))).astype(np.float32)
    thumbnails = np.zeros((len(vectors), THUMBNAIL, THUMBNAIL), np.uint8)
    store = FeatureStore(folder / "cache", *CHOSEN.extractors())
    store.append(np.frombuffer(b"".join(digests), DIGEST), vectors, thumbnails, np.ones(len(vectors), np.int64))
    made = Searched(images, folder / "cache", vectors)
    made.find(0)  # builds the index
    return made


@pytest.fixture
def searched(made: Searched, tmp_path: Path) -> Searched:
    """A copy that a test may change."""
    for name in ("images", "cache"):
        shutil.copytree(made.images.parent / name, tmp_path / name)
    return Searched(tmp_path / "images", tmp_path / "cache", made.queries)


def test_the_index_finds_the_same_as_the_exact_search(made: Searched) -> None:
    for number in (0, 7, 399, IMAGES + 3):  # the last query is not one of the images
        indexed, exact = made.find(number), made.find(number, index=False)
        assert (indexed.index, exact.index, exact.recall) == ("IVF_PQ", None, None)
        assert indexed.recall
        assert indexed.recall > 0.9
        cosines = {each.path: each.cosine for each in exact.found}
        common = [each for each in indexed.found if each.path in cosines]
        assert len(common) >= 9
        assert np.allclose([each.cosine for each in common], [cosines[each.path] for each in common])
        assert [each.cosine for each in indexed.found] == sorted((each.cosine for each in indexed.found), reverse=True)
        assert len(indexed.found) == 10


def test_the_recall_is_printed(made: Searched, capsys: pytest.CaptureFixture) -> None:
    result = made.find(0)
    print_search(result)
    recall = f"by an IVF_PQ index, with a recall of {result.recall:.3f} against the exact search when built\n"
    assert recall in capsys.readouterr().out
    print_search(made.find(0, index=False))
    assert "recall" not in capsys.readouterr().out


def test_copies_are_found_together_in_path_order(made: Searched) -> None:
    assert [each.path for each in made.find(7).found[:2]] == [COPIED, "copy.png"]


def test_removed_images_are_not_found(searched: Searched) -> None:
    (searched.images / COPIED).unlink()
    (searched.images / "0008.png").unlink()
    assert searched.find(7).found[0].path == "copy.png"
    assert "0008.png" not in {each.path for each in searched.find(8, IMAGES).found}


def test_all_images_can_be_requested(made: Searched) -> None:
    found = made.find(3, 10 * IMAGES).found
    assert sorted(each.path for each in found) == sorted(file.name for file in made.images.iterdir())


def test_few_images_of_a_large_store_are_found(searched: Searched) -> None:
    for file in sorted(searched.images.iterdir())[5:]:
        file.unlink()
    result = searched.find(2, 3, index_above=4)
    exact = searched.find(2, 3, index=False)
    assert result.index == "IVF_PQ"
    assert [each.path for each in result.found] == [each.path for each in exact.found]


def test_an_image_newer_than_the_index_is_found(searched: Searched) -> None:
    random = np.random.default_rng(1)
    [file] = make_images(searched.images.parent / "new", [9999]).iterdir()
    vector = random.normal(size=(1, 64)).astype(np.float32)
    store = FeatureStore(searched.cache, *CHOSEN.extractors())
    digest = np.frombuffer(content_digest(file.read_bytes()), DIGEST)
    store.append(digest, vector, np.zeros((1, THUMBNAIL, THUMBNAIL), np.uint8), np.ones(1, np.int64))
    shutil.copy(file, searched.images / "new.png")
    newer = replace(searched, queries=vector)
    assert newer.find(0).found[0].path == "new.png"


def test_a_damaged_index_is_rebuilt(searched: Searched, caplog: pytest.LogCaptureFixture) -> None:
    for file in searched.cache.glob("features/*.lance/_indices/*/*"):
        file.write_bytes(file.read_bytes()[:-50])
    with caplog.at_level(logging.WARNING):
        result = searched.find(5)
    assert "is rebuilt" in caplog.text
    assert result.found[0].path == "0005.png"


def test_few_images_are_searched_exactly(made: Searched, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        result = made.find(5, index_above=INDEXED_ABOVE)
    assert "the search is exact; the index is used above 1,000,000" in caplog.text
    assert (result.index, result.recall) == (None, None)
    assert result.found == made.find(5, index=False).found


def test_searches_without_an_index_are_refused(run, made: Searched, small_run) -> None:
    search = ("search", made.images, "--query", made.images / COPIED, "--quiet", "--index")
    embeddings = run(*search, "--model", small_run.folder, code=2)
    assert "--index is for features; embeddings are predicted" in embeddings.err
    layers = run(*search, "--weights", "random:0", "--layer", "fc1,fc2", code=2)
    assert "--index is for the features of one layer" in layers.err
