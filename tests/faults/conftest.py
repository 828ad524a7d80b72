"""Fixtures for the tests of Ray."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import lance
import pytest
from helpers import SMALL, Finished, are_close, load_npz, make_images, wait_until
from ray_extraction import IMAGES, Extraction


@pytest.fixture
def extract_on_ray(
    start: Callable[..., subprocess.Popen], fresh_cache: Callable[[str], Path], tmp_path: Path
) -> Callable[..., Extraction]:
    images = make_images(tmp_path / "images", range(IMAGES))

    def started(where: str, **variables: str) -> Extraction:
        cache = fresh_cache("ray")
        options = ("--cache", cache, "--ray", where, "--json")
        process = start("extract", images, *SMALL, *options, RAY_TEST=str(tmp_path), **variables)
        # The first version of the store is empty.
        wait_until(lambda: len(list(cache.glob("features/*/_versions/*.manifest"))) > 1, process)
        return Extraction(images, cache, process, str(tmp_path))

    return started


@pytest.fixture
def check_store(run: Callable[..., Finished], fresh_cache: Callable[[str], Path]) -> Callable[[Extraction], None]:
    """Check that a store has each image once, with the vector of a run without Ray."""

    def check(extraction: Extraction) -> None:
        vectors = []
        for cache in (extraction.cache, fresh_cache("here")):
            out = cache / "vectors.npz"
            result = run(
                "extract", extraction.images, *SMALL, "--cache", cache, "--out", out, "--overwrite", "--json"
            ).json
            assert result["failed"] == []
            vectors.append(load_npz(out)["features"])
            if cache == extraction.cache:
                assert result["computed"] == 0
                assert lance.dataset(result["store"]).count_rows() == IMAGES
        assert are_close(*vectors)

    return check
