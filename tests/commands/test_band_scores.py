"""`train --layer a,b --preset banded`: the R² of each layer, in the result, the report and on the terminal."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from helpers import Finished, decoder_weights, load_npz, make_images, run_python

from pipeline.core.runs import read_run
from pipeline.decoders.banded import build_banded, explained_squares, fit_banded
from pipeline.evaluation.bands import BandScores

LAYERS = ("block5_pool", "block5_conv3")
OPTIONS = ("--weights", "random:0", "--layer", ",".join(LAYERS), "--preset", "banded", "--quiet")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen images of no label, with targets of three dimensions, one of them constant."""
    folder = tmp_path_factory.mktemp("banded")
    images = make_images(folder / "images", range(15))
    rows = np.random.default_rng(0).normal(size=(15, 2))
    lines = [f"{image.name},{a},{b},7" for image, (a, b) in zip(sorted(images.iterdir()), rows, strict=True)]
    (folder / "targets.csv").write_text("\n".join(["path,a,b,c", *lines]))
    return folder


def train(run, inputs: Path, *options: object, **settings: int) -> Finished:
    known = (inputs / "images", "--targets", inputs / "targets.csv", "--models", inputs / "models")
    return run("train", *known, *OPTIONS, *options, **settings)


@pytest.fixture(scope="module")
def trained(run, inputs: Path) -> dict:
    return train(run, inputs, "--json").json


def test_parts_of_r2_sum_to_that_of_the_predictions(run, trained: dict, inputs: Path, tmp_path: Path) -> None:
    assert list(trained["bands"]["layers"]) == list(LAYERS)
    assert sum(trained["bands"]["layers"].values()) == pytest.approx(trained["bands"]["r2"])
    file, folder = tmp_path / "predictions.npz", Path(trained["run"])
    run("predict", folder, inputs / "images", "--out", file, "--quiet")
    names = load_npz(file)["paths"].tolist()
    record = read_run(folder)
    assert record.training["draws"] == 50  # 1 if the layers were one band
    held_out = [names.index(path) for path in record.split.validation]
    targets = np.genfromtxt(inputs / "targets.csv", delimiter=",", skip_header=1)[:, 1:3]
    training = np.delete(targets, held_out, axis=0)
    errors = np.square(targets - load_npz(file)["predictions"][:, :2])[held_out].sum(axis=0)
    deviations = np.square(targets[held_out] - training.mean(axis=0)).sum(axis=0)
    assert trained["bands"]["r2"] == pytest.approx(float(np.mean(1 - errors / deviations)), abs=1e-4)


def test_a_negative_part_may_be_that_of_a_layer_that_improves_the_prediction() -> None:
    """The second layer is mostly the noise of the first one: it explains little alone, and much of the error."""
    random = np.random.default_rng(0)
    signal, noise = random.normal(size=(2, 500, 3))
    layers = [signal + noise + random.normal(size=signal.shape) / 20, noise + signal / 5]
    y = (signal @ random.normal(size=(3, 5)) + 0.3 * random.normal(size=(500, 5))).astype(np.float32)

    def scores(*values: np.ndarray) -> BandScores:
        x, train = np.hstack(values).astype(np.float32), slice(0, 300)
        model = build_banded(fit_banded(x[train], y[train], [3] * len(values), np.arange(300)), "functional")
        result = BandScores.of(LAYERS[: len(values)], *explained_squares(model, x[300:], y[300:], [3] * len(values)))
        assert result
        return result

    both = scores(*layers)
    assert both.layers[LAYERS[1]] < -0.1
    assert both.r2 > scores(layers[0]).r2 + 0.3


def test_the_report_and_the_terminal_show_the_layers(run, trained: dict) -> None:
    html = (Path(trained["run"]) / "report.html").read_text()
    assert 'id="bands">Which layer explains what' in html
    assert f"<td>{trained['bands']['r2']:+.4f}</td>" in html
    assert "banded ridge regression (himalaya)" in html
    repeated = run("train", "--config", trained["run"], "--quiet")
    for layer in (*LAYERS, "all layers"):
        r2 = trained["bands"]["layers"].get(layer, trained["bands"]["r2"])
        assert [layer, f"{r2:+.4f}"] in [
            line.split("  ")[1:2] + line.split()[-1:] for line in repeated.out.splitlines()
        ]


def test_a_repeated_run_has_the_same_bits_and_can_be_evaluated(run, trained: dict) -> None:
    repeated = run("train", "--config", trained["run"], "--models", Path(trained["run"]).parent, "--quiet", "--json")
    assert repeated.json["bands"] == trained["bands"]
    for ours, theirs in zip(decoder_weights(repeated.json["run"]), decoder_weights(trained["run"]), strict=True):
        assert np.array_equal(ours, theirs)
    evaluated = run("evaluate", trained["run"], "--shuffled", "--json", "--quiet").json
    cosine = trained["models"]["functional"]["validation_cosine"]
    assert evaluated["models"]["functional"]["cosine"]["mean"] == pytest.approx(cosine, abs=1e-5)
    assert "shuffled" in evaluated["baselines"]


def test_folds_and_a_single_layer(run, inputs: Path) -> None:
    folds = train(run, inputs, "--folds", 3, "--api", "functional", "--json").json
    assert sum(folds["bands"]["layers"].values()) == pytest.approx(folds["bands"]["r2"])
    assert folds["validation"] == 15
    single = train(run, inputs, "--layer", "block5_pool", "--api", "functional", "--json").json
    assert single["bands"] is None


def test_wrong_requests_leave_no_run(run, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = ("--models", tmp_path / "models")
    settings = train(run, inputs, *models, "--hidden", 8, code=2)
    assert settings.err.startswith(
        "error: hidden: banded ridge regression has no such setting; choose --preset network"
    )
    memory = train(run, inputs, *models, "--memory", "64MB", code=2)
    assert "takes about 0.3 GB, more than the memory budget of 0.1 GB. Raise it with --memory 1GB" in memory.err
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "himalaya" else find(name))
    missing = train(run, inputs, *models, code=2)
    assert "install it with pip install 'image-vectors[lab]'" in missing.err
    assert not (tmp_path / "models").exists()


def test_other_presets_do_not_import_himalaya() -> None:
    code = "import sys, pipeline.commands.train; sys.exit('himalaya' in sys.modules)"
    assert run_python("-c", code).code == 0


def test_constant_dimensions_are_left_out() -> None:
    explained, total = np.array([[1.0, 0.0, 3.0], [2.0, 0.0, -1.0]]), np.array([4.0, 0.0, 10.0])
    scores = BandScores.of(["a", "b"], explained, total)
    assert scores == BandScores({"a": pytest.approx(0.275), "b": pytest.approx(0.2)}, pytest.approx(0.475))
    assert scores.rows()[-1] == ("all layers", "+0.4750")
    assert BandScores.of(["a", "b"], explained, np.zeros(3)) is None
