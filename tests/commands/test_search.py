"""`search`: the images nearest to an image, a vector or a word."""

from pathlib import Path

import numpy as np
import pytest
from conftest import SmallRun
from helpers import SMALL, make_images

from pipeline.core.vectors import cosines


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "new", range(4))


def test_an_image_finds_itself_first_and_all_others_in_order(run, images: Path, tmp_path: Path) -> None:
    run("extract", images, *SMALL, "--out", tmp_path / "features.npy")
    features = np.load(tmp_path / "features.npy")
    expected = cosines(features, np.broadcast_to(features[2], features.shape))
    result = run("search", images, "--query", images / "0002.png", "-k", 9, *SMALL, "--json").json
    assert [each["path"] for each in result["found"]] == [f"{row:04}.png" for row in np.argsort(-expected)]
    assert np.allclose([each["cosine"] for each in result["found"]], np.sort(expected)[::-1])
    np.save(tmp_path / "query.npy", features[2])
    (images / "0002.png").unlink()
    again = run("search", images, "--query", tmp_path / "query.npy", *SMALL, "--json").json
    assert [each["path"] for each in again["found"]] == [each["path"] for each in result["found"][1:]]


def test_a_word_is_looked_up_among_embeddings_and_shown_on_a_page(
    run, images: Path, small_run: SmallRun, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    hostile = images / "<img src=x>.png"
    (images / "0000.png").rename(hostile)
    query = ("search", images, "--model", small_run.folder, "--quiet")
    result = run(*query, "--query", "red", "-k", 4, "--json", "--html", page).json
    assert (result["space"], len(result["found"])) == ("embeddings", 4)
    html = page.read_text()
    assert html.count('src="data:image/jpeg') == 4
    assert "<img src=x>" not in html
    assert "default-src 'none'" in html
    assert "Near spellings: red" in run(*query, "--query", "redd", code=2).err


def test_wrong_requests_are_named(run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    np.save(tmp_path / "short.npy", np.ones(3))
    search = ("search", images, *SMALL, "--query")
    assert "name a model with --model RUN" in run(*search, "cat", code=2).err
    assert "bad.png cannot be read" in run(*search, tmp_path / "bad.png", code=2).err
    assert "does not exist" in run(*search, tmp_path / "gone.png", code=2).err
    assert "has dimension 3" in run(*search, tmp_path / "short.npy", code=2).err
    assert "is not a run" in run(*search, "cat", "--model", images, code=2).err
