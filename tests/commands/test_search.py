"""`search`: exact neighbours of images, words and vectors, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, make_image, write_targets
from PIL import Image

from pipeline.commands.search import nearest_rows
from pipeline.core.vectors import unit


def test_the_nearest_rows_are_exact_across_blocks() -> None:
    random = np.random.default_rng(0)
    vectors, query = random.normal(size=(700, 5)).astype(np.float32), random.normal(size=5)
    vectors[[3, 650]] = query  # in different blocks, equally near
    vectors[4] = 0
    cosine = unit(vectors) @ unit(query)
    rows, near = nearest_rows(vectors, query, 20)
    assert rows.tolist() == np.argsort(-cosine, kind="stable")[:20].tolist()
    assert rows[:2].tolist() == [3, 650]
    assert np.allclose(near, cosine[rows])
    assert len(nearest_rows(vectors, query, 1000)[0]) == 700


def test_an_image_finds_itself_and_its_copy_but_no_removed_file(run, folder: Path) -> None:
    (folder / "red" / "copy.png").write_bytes((folder / "red" / "0.png").read_bytes())
    query = ("search", folder, "--query", folder / "red" / "0.png", *SMALL, "--json")
    found = run(*query, "-k", 3).json
    assert (found["kind"], found["space"], found["images"], found["model"]) == ("image", "features", 7, None)
    assert [hit["path"] for hit in found["hits"][:2]] == ["red/0.png", "red/copy.png"]
    assert found["hits"][0]["cosine"] == pytest.approx(1)
    assert len(found["hits"]) == 3
    (folder / "red" / "copy.png").unlink()
    again = run(*query).json
    assert (again["images"], again["computed"], len(again["hits"])) == (6, 0, 6)
    assert "red/copy.png" not in [hit["path"] for hit in again["hits"]]


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images of two labels, and a run on them."""
    folder = tmp_path_factory.mktemp("search")
    for number in range(8):
        file = folder / "images" / ("red", "blue")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        tinted = Image.blend(make_image(number), Image.new("RGB", (60, 40), file.parent.name), 0.8)
        tinted.save(file)
    options = ("--epochs", 60, "--models", folder / "models", "--json", "--api", "functional")
    targets = write_targets(folder, "blue", "red")
    rows = run("train", folder / "images", "--targets", targets, *SMALL, *options, "--split", "random:0.4")
    return folder / "images", Path(rows.json["run"])


def test_a_word_finds_the_images_of_its_label(run, trained: tuple[Path, Path], tmp_path: Path) -> None:
    images, model = trained
    found = run("search", images, "--query", "red", "--model", model, "-k", 4, "--json", "--quiet").json
    assert (found["kind"], found["space"]) == ("word", "embeddings")
    assert {Path(hit["path"]).parent.name for hit in found["hits"]} == {"red"}
    table = (images.parent / "targets.csv").read_text().splitlines()
    (tmp_path / "words.txt").write_text("".join(f"{line.replace(',', ' ')}\n" for line in table))
    words = ("--vocabulary", tmp_path / "words.txt")
    again = run("search", images, "--query", "red", "--model", model, *words, "-k", 4, "--json", "--quiet").json
    assert again["hits"] == found["hits"]
    np.save(tmp_path / "red.npy", np.array([line.split(",")[1:] for line in table][1], np.float32))
    by_vector = run("search", images, "--query", tmp_path / "red.npy", "--model", model, "-k", 4, "--json", "--quiet")
    assert by_vector.json["hits"] == found["hits"]
    printed = run("search", images, "--query", "red", "--model", model, "-k", 1, "--quiet").out
    assert "Nearest to red" in printed
    assert found["hits"][0]["path"] in printed


def test_a_model_alone_says_which_features_are_searched(run, trained: tuple[Path, Path]) -> None:
    images, model = trained
    query = ("search", images, "--query", images / "red" / "0.png", "--model", model, "--json", "--quiet")
    features = run(*query, "--space", "features").json
    embeddings = run(*query).json
    assert features["extractor"] == embeddings["extractor"]
    assert features["hits"][0]["cosine"] == pytest.approx(1)
    assert features["hits"][-1]["cosine"] != embeddings["hits"][-1]["cosine"]


def test_wrong_requests_are_named(run, trained: tuple[Path, Path], tmp_path: Path) -> None:
    images, model = trained
    np.save(tmp_path / "two.npy", np.ones((2, 3)))
    np.save(tmp_path / "long.npy", np.ones(7))
    np.save(tmp_path / "zero.npy", np.zeros(3))
    (tmp_path / "text.npy").write_text("text")
    (tmp_path / "bad.png").write_bytes(b"bad")
    (tmp_path / "words.txt").write_text("reed 1 2 3\n")
    of_model = ("--model", model)
    for arguments, message, code in [
        (("reed", *of_model), "Near in spelling: red", 2),
        (("red", *of_model, "--vocabulary", tmp_path / "words.txt"), "Near in spelling: reed", 2),
        (("red",), "--model RUN", 2),
        (("red", *of_model, "--space", "features"), "a word has no VGG16 feature", 2),
        (("gone.png", *of_model), "gone.png: no such file", 2),
        ((tmp_path / "two.npy", *of_model), "must hold one vector", 2),
        ((tmp_path / "long.npy", *of_model), "embeddings have dimension 3", 2),
        ((tmp_path / "zero.npy", *of_model), "zero", 2),
        ((tmp_path / "text.npy", *of_model), "cannot be read as an array", 2),
        ((images / "red" / "0.png", "--space", "embeddings"), "--model RUN", 2),
        ((images / "red" / "0.png", *of_model, "--layer", "fc1"), "layer: trained on 'block5_pool'", 2),
        ((images / "red" / "0.png", "--model", tmp_path / "gone"), "no such model", 2),
        ((images / "red" / "0.png", *of_model, "--vocabulary", tmp_path / "words.txt"), "is a file", 2),
        ((tmp_path / "bad.png", *of_model), "not an image", 1),
    ]:
        finished = run("search", images, "--query", *arguments, "--quiet", code=code)
        assert message in finished.err, finished.err
        assert finished.out == ""
