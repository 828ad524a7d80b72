"""`rsa`: layers of a network, a decoder and the targets."""

from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, make_images

from pipeline.core.runs import read_run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images with a target each, and a table of their repeats."""
    folder = tmp_path_factory.mktemp("rsa")
    make_images(folder / "photos", range(12))
    names = sorted(file.name for file in (folder / "photos").iterdir())
    targets = np.random.default_rng(0).normal(size=(12, 6))
    np.save(folder / "targets.npy", targets)
    rows = [(name, *target) for name, target in zip(names, targets, strict=True)]
    noisy = [(name, *(np.array(target) + 0.3 * number)) for name, *target in rows for number in (-1, 1)]
    for file, lines in (("targets.csv", rows), ("repeats.csv", noisy)):
        head = ",".join(["path", *(f"d{number}" for number in range(6))])
        (folder / file).write_text("\n".join([head, *(",".join(map(str, line)) for line in lines)]))
    return folder


def test_layers_are_compared_with_the_targets(run, photos: Path, open_page) -> None:
    report = photos / "rsa.html"
    command = ("rsa", photos / "photos", "--targets", photos / "targets.csv", *SMALL, "--bootstraps", 100)
    result = run(*command, "--layer", "block5_conv3,block5_pool", "--report", report, "--json").json
    assert (result["conditions"], result["images"], result["noise_ceiling"]) == (12, 12, None)
    assert [score["name"] for score in result["scores"]] == ["block5_conv3", "block5_pool"]
    assert all(-1 <= score["ci95"][0] <= score["ci95"][1] <= 1 for score in result["scores"])
    opened = open_page(report)
    matrices = opened.page.locator("[data-chart^=chart-rdm] svg")
    assert matrices.count() == 3
    boxes = [matrices.nth(number).bounding_box() for number in range(3)]
    assert len({box["y"] for box in boxes}) == 1  # side by side
    names = sorted(file.name for file in (photos / "photos").iterdir())
    assert all(name in matrices.first.text_content() for name in names)
    assert opened.page.locator("table").count() == 2
    assert opened.messages == []
    crossed = run(*command, "--noise-ceiling", photos / "repeats.csv", "--dissimilarity", "crossnobis")
    assert "Representational similarity to the targets" in crossed.out
    assert "Difference from" not in crossed.out


def test_vectors_and_predictions_are_compared(run, small_run, photos: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "clip.npz", features=np.random.default_rng(1).normal(size=(12, 9)))
    named = ("--targets", photos / "targets.npy", "--bootstraps", 100, "--quiet", "--json")
    table = run("rsa", "--features", tmp_path / "clip.npz", *named).json
    assert [score["name"] for score in table["scores"]] == ["vectors"]
    dim = read_run(small_run.folder).result["target_dim"]
    np.save(tmp_path / "targets.npy", np.random.default_rng(2).normal(size=(12, dim)))
    options = ("--targets", tmp_path / "targets.npy", "--model", small_run.folder, *SMALL, "--bootstraps", 100)
    report = tmp_path / "rsa.html"
    result = run("rsa", photos / "photos", *options, "--report", report, "--json").json
    assert "<h1>The features most similar to the targets: block5_pool (" in report.read_text()
    assert [score["name"] for score in result["scores"]] == ["block5_pool", "predictions"]
    trained_on = read_run(small_run.folder).split.train  # both folders have the same images 0 to 5
    assert (result["images"], result["trained_on"]) == (12, len(trained_on))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dissimilarity", "crossnobis"), "needs two repeated targets or more for every condition"),
        (("--method", "pearson"), "Invalid value for '--method'"),
        (("--report", "rsa.txt"), "rsa.txt"),
    ],
)
def test_wrong_requests_are_one_message(run, photos: Path, options: tuple, message: str) -> None:
    shown = run("rsa", photos / "photos", "--targets", photos / "targets.csv", *SMALL, *options, code=2)
    assert message in shown.err
    assert "Traceback" not in shown.err


def test_too_few_conditions_are_refused(run, small_run) -> None:
    shown = run("rsa", small_run.images, "--targets", small_run.targets, *SMALL, code=2)
    assert "1 different target, which are the conditions; from 4 to 500 can be compared" in shown.err
    assert "name them with --targets FILE" in run("rsa", small_run.images, *SMALL, code=2).err
