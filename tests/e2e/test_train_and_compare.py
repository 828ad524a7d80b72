"""`train` and `compare` as commands: interrupted, resumed, diverging, compared."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, decoder_weights, is_gone_soon, wait_until, write_targets


@pytest.fixture
def train(folder: Path, tmp_path: Path) -> tuple:
    """The arguments for training on six images."""
    targets = write_targets(tmp_path, "blue", "red")
    return "train", folder, "--targets", targets, *SMALL, "--split", "random:0.4", "--models", tmp_path / "models"


def test_an_interrupted_run_resumes_only_with_its_own_options_and_images(
    run, start, train: tuple, folder: Path, tmp_path: Path
) -> None:
    process = start(*train, "--epochs", 10**6, program="frequent_checkpoints")
    wait_until(lambda: list(tmp_path.glob("models/*/checkpoint.npz")), process)
    os.killpg(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    [interrupted] = (tmp_path / "models").iterdir()
    assert (process.returncode, "Traceback" in messages) == (130, False)
    assert f"python -m pipeline train --resume {interrupted}" in messages
    assert is_gone_soon(process.pid)

    assert "is not finished; resume with" in run("evaluate", interrupted, code=2).err
    for other in (("--epochs", 5), ("--config", interrupted / "run.json"), ("--seed", 0)):
        assert "give --resume alone" in run("train", "--resume", interrupted, *other, code=2).err
    (folder / "red" / "2.png").rename(folder / "red" / "3.png")
    assert "the images changed since it began" in run("train", "--resume", interrupted, code=2).err


def test_a_finished_run_is_not_trained_again(run, train: tuple) -> None:
    trained = run(*train, "--epochs", 2, "--api", "functional", "--json").json
    assert run("train", "--resume", trained["run"], "--json", "--quiet").json == trained


def test_a_diverging_run_keeps_finite_weights(run, train: tuple, tmp_path: Path) -> None:
    diverging = (*train, "--optimizer", "sgd", "--schedule", "constant", "--epochs", 300)
    finished = run(*diverging, "--learning-rate", 1e30, code=1)
    assert "not finite after epoch 1 of 300" in finished.err
    assert list((tmp_path / "models").iterdir()) == []
    finished = run(*diverging, "--learning-rate", 30, "--json", code=1)
    assert "not finite after epoch" in finished.err
    assert "have the weights of epoch" in finished.err
    assert finished.out == ""
    [kept] = (tmp_path / "models").iterdir()
    assert all(np.isfinite(array).all() for array in decoder_weights(kept))
    assert run("evaluate", kept, "--json", "--quiet").json["models"]


def test_training_options_reach_the_training(run, train: tuple) -> None:
    options = (
        *("--optimizer", "adamw", "--loss", "cosine", "--schedule", "constant", "--learning-rate", 0.5),
        *("--epochs", 400, "--patience", 3, "--minibatch", 2, "--memory", "100MB", "--tensorboard"),
    )
    result = run(*train, *options, "--json").json
    assert all(3 < model["epochs"] < 400 for model in result["models"].values())
    logs = Path(result["run"]) / "logs"
    assert {str(file.parent.relative_to(logs)) for file in logs.rglob("events*")} == {
        f"{style}/{part}" for style in ("functional", "sequential") for part in ("train", "validation")
    }


@pytest.mark.slow
def test_compare_on_user_images(run, train: tuple, tmp_path: Path) -> None:
    _, folder, *options = train
    plot = tmp_path / "curves.png"
    found = run("compare", folder, *options[:-2], "--seeds", 1, "--epochs", 5, "--plot", plot, "--json").json
    assert set(found) >= {"scenarios", "ceiling", "seconds"}
    for scenario in found["scenarios"]:
        assert set(scenario) >= {"name", "runs", "max_weight_difference", "verdict"}
        [of_seed] = scenario["runs"]
        assert set(of_seed) == {"seed", "functional", "sequential", "functional_held_out", "sequential_held_out"}
        assert of_seed["functional_held_out"] != of_seed["functional"]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_compare_answers_the_original_question(run) -> None:
    result = run("compare", "--json", "--quiet").json
    runs = {scenario["name"]: scenario["runs"] for scenario in result["scenarios"]}
    for each in runs["shared-optimizer"]:
        assert each["functional"] == pytest.approx(0.650, abs=0.001)
        assert 0.10 < each["sequential"] < 0.30
    for each in runs["separate-optimizers"]:
        assert 0.648 < each["functional"] <= result["ceiling"]
        assert each["sequential"] == pytest.approx(each["functional"], abs=0.003)
    assert result["equivalent"]
