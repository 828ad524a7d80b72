"""`search`: the images nearest to an image, a vector or a word."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SmallRun
from helpers import SMALL, load_npz, make_images

from pipeline.core.vectors import cosines

WORDS = {"cat": np.array([1.0, 2.0, -1.0]), "dog": np.array([-0.5, 1.0, 0.25]), "unlike": np.array([0.0, 0.5, 1.0])}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_images(tmp_path / "new", range(4))


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A file of word vectors with the dimension of the small run."""
    file = tmp_path / "words.txt"
    file.write_text("".join(f"{word} {' '.join(map(str, vector))}\n" for word, vector in WORDS.items()))
    return file


def test_a_vector_finds_all_images_in_order_and_an_image_all_but_itself(run, images: Path, tmp_path: Path) -> None:
    run("extract", images, *SMALL, "--out", tmp_path / "features.npy")
    features = np.load(tmp_path / "features.npy")
    expected = cosines(features, np.broadcast_to(features[2], features.shape))
    np.save(tmp_path / "query.npy", features[2])
    by_vector = run("search", images, "--query", tmp_path / "query.npy", "-k", 9, *SMALL, "--json").json["found"]
    assert [each["path"] for each in by_vector] == [f"{row:04}.png" for row in np.argsort(-expected)]
    assert np.allclose([each["cosine"] for each in by_vector], np.sort(expected)[::-1])
    query = ("search", images, "--query", images / "0002.png", *SMALL, "--json")
    assert run(*query, "-k", 9).json["found"] == by_vector[1:]
    assert run(*query, "-k", 2).json["found"] == by_vector[1:3]


def test_a_copy_of_the_query_is_found(run, images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "0002.png", tmp_path / "query.png")
    [first, *_] = run("search", images, "--query", tmp_path / "query.png", *SMALL, "--json").json["found"]
    assert first["path"] == "0002.png"
    assert first["cosine"] == pytest.approx(1)


@pytest.mark.slow
def test_a_word_from_the_file_of_the_targets(run, images: Path, words: Path, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        make_images(tmp_path / "labelled" / label, range(3))
    options = ("--epochs", 1, "--api", "functional", "--models", tmp_path / "models", "--name", "words")
    run("train", tmp_path / "labelled", "--targets", words, *SMALL, *options)
    search = ("search", images, "--model", tmp_path / "models" / "words", "--json", "--query")
    np.save(tmp_path / "unlike.npy", WORDS["unlike"])  # not a label of the run
    assert run(*search, "unlike").json["found"] == run(*search, tmp_path / "unlike.npy").json["found"]
    assert "--vocabulary FILE" in run(*search, "xyzzy", code=2).err


def test_a_word_is_searched_among_embeddings_and_shown_on_a_page(
    run, images: Path, small_run: SmallRun, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    hostile = images / "<img src=x>.png"
    (images / "0000.png").rename(hostile)
    query = ("search", images, "--model", small_run.folder, "--quiet")
    result = run(*query, "--query", "red", "-k", 4, "--json", "--report", page).json
    assert (result["space"], len(result["found"])) == ("embeddings", 4)
    html = page.read_text()
    assert html.count('src="data:image/jpeg') == 4
    assert "<img src=x>" not in html
    assert "default-src 'none'" in html


def test_a_misspelled_word_gets_suggestions(run, images: Path, small_run: SmallRun, words: Path) -> None:
    query = ("search", images, "--model", small_run.folder, "--quiet", "--query")
    assert "is not among the labels of the run. Near spellings: red." in run(*query, "redd", code=2).err
    vocabulary = run(*query, "cta", "--vocabulary", words, code=2)
    assert f"is not among the vocabulary {words}. Near spellings: cat." in vocabulary.err
    assert "Near spellings" not in run(*query, "xyzzy", "--vocabulary", words, code=2).err


def test_a_word_from_a_vocabulary(run, images: Path, small_run: SmallRun, words: Path, tmp_path: Path) -> None:
    query = ("search", images, "--model", small_run.folder, "--quiet", "--json", "--query")
    by_word = run(*query, "dog", "--vocabulary", words).json["found"]
    np.save(tmp_path / "dog.npy", WORDS["dog"])
    assert by_word == run(*query, tmp_path / "dog.npy").json["found"]
    run("predict", small_run.folder, images, "--out", tmp_path / "out.npz", "--quiet")
    predicted = load_npz(tmp_path / "out.npz")
    near = cosines(predicted["predictions"], np.tile(WORDS["dog"], (4, 1)))
    assert [each["path"] for each in by_word] == predicted["paths"][np.argsort(-near)].tolist()
    assert np.allclose([each["cosine"] for each in by_word], np.sort(near)[::-1], atol=1e-6)
    words.write_text("dog 1 2\n")
    assert "has dimension 2; the embeddings have 3" in run(*query, "dog", "--vocabulary", words, code=2).err
    assert "the query is a file" in run(*query, tmp_path / "dog.npy", "--vocabulary", words, code=2).err


def test_several_layers_are_concatenated_for_search(run, images: Path, tmp_path: Path) -> None:
    layers = ("--weights", "random:0", "--layer", "block5_pool,block3_pool", "--engine", "keras", "--quiet")
    run("extract", images, *layers, "--out", tmp_path / "layers.npz")
    with np.load(tmp_path / "layers.npz") as written:
        paths, features = written["paths"], np.hstack([written["block5_pool"], written["block3_pool"]])
    near = cosines(features, np.tile(features[1], (4, 1)))
    found = run("search", images, "--query", images / "0001.png", *layers, "--json").json["found"]
    others = np.argsort(-near)[1:]
    assert [each["path"] for each in found] == paths[others].tolist()
    assert np.allclose([each["cosine"] for each in found], near[others])


@pytest.mark.parametrize(("scheme", "width"), [("light", 1000), ("dark", 375)])
def test_the_page_is_readable_everywhere(run, images: Path, tmp_path: Path, open_page, scheme: str, width: int) -> None:
    page = tmp_path / "page.html"
    hostile = ["<img src=x onerror=alert(1)>" + "x" * 100 + ".png", "50% #1?.png"]
    for name in hostile:
        (images / name).write_bytes((images / "0001.png").read_bytes())
    run("search", images, "--query", images / hostile[0], *SMALL, "--report", page)
    opened = open_page(page, scheme, width)
    assert opened.page.title() == f"Search: {images / hostile[0]}"
    paths = opened.page.locator("main li .path").all_inner_texts()
    assert sorted(paths) == sorted([*(f"000{number}.png" for number in range(4)), hostile[1]])
    addresses = opened.page.evaluate("[...document.querySelectorAll('main li a')].map(link => link.href)")
    assert addresses == [(images / path).as_uri() for path in paths]
    assert opened.page.locator(".query img").count() == 1
    assert "layer block5_pool" in opened.page.locator("header").inner_text()
    assert opened.page.locator("img[src=x]").count() == 0
    assert opened.page.evaluate("[...document.images].every(image => image.naturalWidth === 60)")
    assert opened.overflow() <= 0
    assert opened.accessibility_violations() == []
    assert (opened.messages, len(opened.requests)) == ([], 1)


def test_wrong_requests_are_refused(run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    np.save(tmp_path / "short.npy", np.ones(3))
    search = ("search", images, *SMALL, "--query")
    assert "name a model with --model RUN" in run(*search, "cat", code=2).err
    assert "bad.png cannot be read" in run(*search, tmp_path / "bad.png", code=2).err
    assert "does not exist" in run(*search, tmp_path / "gone.png", code=2).err
    assert "has dimension 3" in run(*search, tmp_path / "short.npy", code=2).err
    assert "is not a run" in run(*search, "cat", "--model", images, code=2).err
